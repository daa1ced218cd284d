"""Colours: the sky and light of each time of day, and the paints that objects wear.

All values are sRGB bytes. Times of day differ in hue and in brightness, so that they stay apart in every place and
style; paints keep their hue at night (they are dimmed, not turned blue), so that a colour word always holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from canvas import CREAM, Colour, mix

PAINTS: dict[str, Colour] = {
    "red": (214, 34, 42),
    "orange": (246, 132, 16),
    "yellow": (252, 212, 30),
    "green": (24, 156, 84),
    "blue": (32, 92, 216),
    "purple": (122, 48, 172),
    "pink": (250, 134, 186),
    "white": (250, 250, 248),
}


@dataclass(frozen=True)
class Light:
    """A time of day: the sky's three stops, what distance fades into, and how it colours land, water and paint."""

    sky: tuple[Colour, Colour, Colour]
    haze: Colour
    land_factor: tuple[float, float, float]
    land_tint: Colour
    tint_amount: float
    paint_factor: tuple[float, float, float]
    water: tuple[Colour, Colour]
    sun: Colour
    cloud: Colour
    window: Colour
    bird: Colour

    def land(self, colour: Colour, depth: float = 0.0) -> Colour:
        """A land colour in this light; depth 0 is near, 1 has faded into the haze."""
        factor = self.land_factor
        lit = (round(colour[0] * factor[0]), round(colour[1] * factor[1]), round(colour[2] * factor[2]))
        return mix(mix(lit, self.land_tint, self.tint_amount), self.haze, depth)

    def paint(self, colour: Colour) -> Colour:
        """An object's colour in this light."""
        factor = self.paint_factor
        return (round(colour[0] * factor[0]), round(colour[1] * factor[1]), round(colour[2] * factor[2]))


LIGHTS: dict[str, Light] = {
    "dawn": Light(
        sky=((142, 158, 214), (232, 186, 214), (255, 226, 204)),
        haze=(240, 206, 214),
        land_factor=(0.86, 0.84, 0.92),
        land_tint=(186, 150, 196),
        tint_amount=0.3,
        paint_factor=(0.98, 0.96, 0.98),
        water=((214, 184, 214), (120, 138, 190)),
        sun=(255, 244, 214),
        cloud=(255, 240, 240),
        window=(255, 226, 150),
        bird=(92, 78, 120),
    ),
    "noon": Light(
        sky=((46, 140, 224), (118, 194, 242), (214, 240, 250)),
        haze=(190, 222, 240),
        land_factor=(1.0, 1.0, 1.0),
        land_tint=(255, 255, 255),
        tint_amount=0.03,
        paint_factor=(1.0, 1.0, 1.0),
        water=((84, 186, 222), (18, 104, 178)),
        sun=(255, 232, 92),
        cloud=(255, 255, 255),
        window=(196, 230, 246),
        bird=(40, 52, 76),
    ),
    "sunset": Light(
        sky=((92, 40, 112), (224, 78, 84), (255, 186, 78)),
        haze=(246, 132, 92),
        land_factor=(0.8, 0.6, 0.58),
        land_tint=(128, 40, 84),
        tint_amount=0.28,
        paint_factor=(0.97, 0.9, 0.9),
        water=((250, 146, 84), (120, 44, 104)),
        sun=(255, 236, 150),
        cloud=(252, 142, 112),
        window=(255, 222, 110),
        bird=(60, 20, 56),
    ),
    "night": Light(
        sky=((8, 14, 44), (20, 36, 88), (52, 80, 138)),
        haze=(44, 66, 122),
        land_factor=(0.5, 0.56, 0.7),
        land_tint=(16, 26, 78),
        tint_amount=0.3,
        paint_factor=(0.86, 0.83, 0.88),
        water=((44, 78, 138), (10, 22, 62)),
        sun=(255, 248, 214),
        cloud=(64, 84, 136),
        window=(255, 214, 96),
        bird=(6, 8, 26),
    ),
}


def washed(light: Light) -> Light:
    """The light of the ink style: everything a thin wash over cream paper, hues kept."""

    def wash(colour: Colour) -> Colour:
        return mix(colour, CREAM, 0.36 if light is not LIGHTS["night"] else 0.2)

    return Light(
        sky=(wash(light.sky[0]), wash(light.sky[1]), wash(light.sky[2])),
        haze=mix(light.haze, CREAM, 0.4),
        land_factor=light.land_factor,
        land_tint=light.land_tint if light is LIGHTS["night"] else CREAM,
        tint_amount=max(0.26, light.tint_amount * 0.9),
        paint_factor=light.paint_factor,
        water=(wash(light.water[0]), wash(light.water[1])),
        sun=light.sun,
        cloud=mix(light.cloud, CREAM, 0.3),
        window=light.window,
        bird=light.bird,
    )
