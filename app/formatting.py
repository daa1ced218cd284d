"""Bytes, seconds and names for people. Everywhere else bytes are integers and seconds are floats."""

from __future__ import annotations

from core.messages import Phase

_COMPONENTS = {
    "text_encoder": "Text encoder",
    "text_encoder_2": "Text encoder 2",
    "text_encoder_3": "Text encoder 3",
    "transformer": "Transformer",
    "unet": "UNet",
    "vae": "VAE",
    "vocoder": "Vocoder",
}
_PHASES = {
    Phase.LOAD: "Loading the model",
    Phase.ENCODE: "Reading the prompt",
    Phase.IMAGE_ENCODE: "Reading the picture",
    Phase.DENOISE: "Painting",
    Phase.DECODE: "Developing",
    Phase.SAVE: "Saving",
}


def seconds(value: float) -> str:
    """A duration: `0.3 s`, `12 s`, `2 min 5 s`."""
    if value < 9.95:
        return f"{max(value, 0.0):.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def about(value: float) -> str:
    """A duration that was not measured exactly: `9 s`, `2 min 5 s`."""
    return f"{max(1, round(value))} s" if value < 59.5 else seconds(value)


def size(value: int) -> str:
    """Bytes in powers of ten: `940 kB`, `12.3 MB`, `7.1 GB`."""
    if value < 1000:
        return f"{value} B"
    amount = float(value)
    for unit in ("kB", "MB", "GB", "TB"):
        amount /= 1000
        if amount < 999.5 or unit == "TB":
            return f"{amount:.1f} {unit}" if amount < 99.95 else f"{amount:.0f} {unit}"
    raise AssertionError("unreachable")


def component(name: str) -> str:
    """A component's name as a person says it."""
    return _COMPONENTS.get(name) or name.replace("_", " ").capitalize()


def phase(value: Phase) -> str:
    """What the engine does in a phase, as a person says it."""
    return _PHASES[value]


def tooltip(*lines: str) -> str:
    """Text for a tooltip: wrapped where it is long, and never taken for markup."""
    # not html.escape: its module brings a table of two thousand entities, which the first frame would wait for
    escaped = (line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in lines)
    return "<p>" + "<br>".join(escaped) + "</p>"
