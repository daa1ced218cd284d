"""What a picture's or clip's file says of itself: the complete result as JSON, and the text other programs read.

A PNG carries three text chunks: `residency` (JSON of `core.messages.Result`, all that is needed to make it again),
`parameters` (the form of AUTOMATIC1111's web UI, read by Civitai and most viewers) and `XML:com.adobe.xmp` (IPTC's
DigitalSourceType, which marks generated media). An MP4 carries the same as its comment, its description and an XMP box,
and its first frame as its cover (core.generation.video writes it).
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import msgspec
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from core.files import write_atomically
from core.library import mp4
from core.messages import Request, Result, UserError

JSON_KEY = "residency"
TEXT_KEY = "parameters"
XMP_KEY = "XML:com.adobe.xmp"
_XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="w"?>'
)
# Names of the A1111 web UI for diffusers' schedulers.
_SAMPLERS = {
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
    "DDIMScheduler": "DDIM",
    "HeunDiscreteScheduler": "Heun",
    "LMSDiscreteScheduler": "LMS",
}
STILL, CLIP = ".png", ".mp4"
# A text chunk larger than this is not ours to parse: a prompt is kilobytes at most.
_LARGEST_TEXT = 1 << 20


def parameters_text(result: Result) -> str:
    """The result in the A1111 form: prompt, negative prompt, then one line of `Key: value` pairs."""
    lines = [result.prompt]
    if result.negative_prompt:
        lines.append(f"Negative prompt: {result.negative_prompt}")
    fields = {
        "Steps": result.steps,
        "Sampler": _SAMPLERS.get(result.scheduler, result.scheduler),
        "CFG scale": result.guidance if result.guidance is not None else 1.0,
        "Seed": result.seed,
        "Size": f"{result.width}x{result.height}",
        "Model hash": result.fingerprint[:10],
        "Model": result.model,
        "Version": f"Residency {result.versions.get('residency', '')}".strip(),
    }
    if result.init is not None:
        fields["Denoising strength"] = result.init.strength
    lines.append(", ".join(f"{key}: {value}" for key, value in fields.items()))
    return "\n".join(lines)


def suffix_of(frames: int) -> str:
    """What the name of a file of so many frames ends in."""
    return CLIP if frames > 1 else STILL


def check_writable(path: Path, frames: int = 1) -> None:
    """Find out before any work is done whether a picture, or a clip, can be written. Raises UserError."""
    folder = path.parent
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file in it.")
    if path.suffix.lower() != suffix_of(frames):
        if frames > 1:
            change = "change its name, or ask for one frame" if path.suffix.lower() == STILL else "change its name"
            raise UserError(f"{path.name} does not end in .mp4, the format of {frames} frames; {change}.")
        raise UserError(f"{path.name} does not end in .png, the format that pictures are written in; change its name.")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{path.parent} cannot be written to; choose another folder.")


def texts_of(result: Result) -> dict[str, str]:
    """What a file of this result says, by JSON_KEY, TEXT_KEY and XMP_KEY."""
    # pictures are shared: where this one and what it was made with lay on their maker's disk is nobody's business
    loras = tuple(msgspec.structs.replace(lora, file=_name(lora.file)) for lora in result.loras)
    init = result.init and msgspec.structs.replace(result.init, file=_name(result.init.file))
    record = msgspec.json.encode(msgspec.structs.replace(result, file="", loras=loras, init=init)).decode()
    return {JSON_KEY: record, TEXT_KEY: parameters_text(result), XMP_KEY: _XMP}


def _name(file: str) -> str:
    return re.split(r"[\\/]", file)[-1]


def write_png(path: Path, image: Image.Image, result: Result) -> None:
    """Write the picture with its metadata.

    Raises:
        UserError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    info, texts = PngImagePlugin.PngInfo(), texts_of(result)
    info.add_text(TEXT_KEY, texts[TEXT_KEY])
    info.add_itxt(JSON_KEY, texts[JSON_KEY])
    info.add_itxt(XMP_KEY, texts[XMP_KEY])
    try:
        write_atomically(path, lambda file: image.save(file, format="PNG", pnginfo=info))
    except OSError as error:
        raise UserError(
            f"The picture could not be saved to {path} ({error.strerror or error}); "
            "choose another folder or free some disk space."
        ) from error


def read_result(path: Path) -> Result | None:
    """The result that a file of ours carries; None if there is no such file or it says nothing that we understand."""
    text = _texts(path).get(JSON_KEY)
    if not text:
        return None
    try:
        result = msgspec.json.decode(text, type=Result)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return msgspec.structs.replace(result, file=str(path))


def read_request(path: Path) -> Request | None:
    """The request that would make this picture again, from our JSON or else from the A1111 text; None if neither."""
    result = read_result(path)
    if result is not None:
        return result.request()
    text = _texts(path).get(TEXT_KEY)
    return parse_parameters(text) if text else None


def parse_parameters(text: str) -> Request | None:
    """Read the A1111 form; unknown fields are passed over, the model's name too. None if it is no such text."""
    match = re.search(r"^Steps: (\d{1,9}),(.*)$", text, flags=re.MULTILINE)
    if match is None:
        return None
    head = text[: match.start()].rstrip("\n")
    prompt, _, negative = head.partition("\nNegative prompt: ")
    if head.startswith("Negative prompt: "):
        prompt, negative = "", head.removeprefix("Negative prompt: ")
    fields = dict(re.findall(r"([A-Z][\w ]*): ([^,]+)", match.group(2)))
    width, height = _size(fields.get("Size", ""))
    return Request(
        prompt=prompt,
        negative_prompt=negative,
        seed=_seed(fields.get("Seed")),
        steps=int(match.group(1)),
        guidance=_number(fields.get("CFG scale")),
        width=width,
        height=height,
    )


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seed(text: str | None) -> int:
    # not as a float, which would lose digits of a long one
    seed = int(text) if text is not None and re.fullmatch(r"\d{1,19}", text.strip()) else 0
    return seed if seed < 2**63 else 0  # a longer one cannot be used here


def _size(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip())
    return (int(match.group(1)), int(match.group(2))) if match else (None, None)


def _texts(path: Path) -> dict[str, str]:
    """The texts in a PNG or MP4, without decoding its pixels; empty for anything else."""
    if path.suffix.lower() == CLIP:
        comment, description = mp4.read_texts(path, _LARGEST_TEXT)
        return {JSON_KEY: comment, TEXT_KEY: description}
    try:
        with Image.open(path) as image:
            if not isinstance(image, PngImagePlugin.PngImageFile):
                return {}
            items = image.info.items()
            return {
                str(key): str(value) for key, value in items if isinstance(value, str) and len(value) < _LARGEST_TEXT
            }
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
        return {}
