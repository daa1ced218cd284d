"""The two palettes, as plain data. No Qt here, so that contrast is tested without a window."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Colours:
    """One theme. Colours are `#rrggbb`.

    `window` lies under everything, `panel` on it, `field` is where one types, `raised` what one presses. `accent` marks
    the one main action and what is selected; `accent_soft` is its quiet background.
    """

    name: str
    window: str
    panel: str
    field: str
    raised: str
    raised_hover: str
    line: str
    text: str
    muted: str
    accent: str
    accent_hover: str
    accent_text: str
    accent_soft: str
    on_accent: str
    good: str
    busy: str
    danger: str
    danger_soft: str
    encoder: str
    encoder_2: str
    encoder_3: str
    transformer: str
    transformer_2: str
    vae: str
    slots: str
    other: str


DARK = Colours(
    name="dark",
    window="#121419",
    panel="#1b1e25",
    field="#121419",
    raised="#282c35",
    raised_hover="#333845",
    line="#2d323c",
    text="#eef0f4",
    muted="#9ca4b3",
    accent="#86a8ff",
    accent_hover="#9dbaff",
    accent_text="#9dbaff",
    accent_soft="#27345a",
    on_accent="#0d1424",
    good="#5fc58d",
    busy="#f0b45c",
    danger="#ff8b86",
    danger_soft="#3d2326",
    encoder="#f0b45c",
    encoder_2="#d9836b",
    encoder_3="#b9b85a",
    transformer="#4fb8a6",
    transformer_2="#5fa8dc",
    vae="#a98ef5",
    slots="#d58fb8",
    other="#8f98a8",
)

LIGHT = Colours(
    name="light",
    window="#eceef2",
    panel="#ffffff",
    field="#f6f7f9",
    raised="#eceef2",
    raised_hover="#e0e4eb",
    line="#d9dde5",
    text="#1a1d24",
    muted="#5b6372",
    accent="#2f5fe0",
    accent_hover="#2551c8",
    accent_text="#2450c4",
    accent_soft="#dfe8ff",
    on_accent="#ffffff",
    good="#1d8a55",
    busy="#a86a0a",
    danger="#b3261e",
    danger_soft="#fde9e7",
    encoder="#c07a12",
    encoder_2="#c2593d",
    encoder_3="#84801c",
    transformer="#1f9482",
    transformer_2="#2f7fb8",
    vae="#7a5be0",
    slots="#b05c92",
    other="#6d7686",
)


def component_colour(colours: Colours, component: str) -> str:
    """The colour that stands for a component, or another layer of the chart, everywhere in the window."""
    if component.startswith("text_encoder"):
        more = {"text_encoder": colours.encoder, "text_encoder_3": colours.encoder_3}
        return more.get(component, colours.encoder_2)
    if component.startswith(("transformer", "unet")):
        return colours.transformer_2 if component.endswith("_2") else colours.transformer
    if component == "slots":
        return colours.slots
    if component.startswith(("vae", "vocoder", "audio")):
        return colours.vae
    return colours.other


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
