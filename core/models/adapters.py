"""LoRA files: finding one by what a person says of it, and what it is, from its header alone. No torch.

A LoRA changes layers of a model by small factors: y + scale * B(A(x)), with A of `rank` rows. Only safetensors files
are read; pickles, which may run programs, never are.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import re
from pathlib import Path

import msgspec

from core import folders
from core.files import write_atomically
from core.messages import Adapter, ModelFileError, UserError
from core.models.headers import SafetensorsHeader, read_safetensors

SUFFIX = ".safetensors"
# The first matrix of a pair, as trainers and libraries call it (diffusers, peft, kohya, xlabs); the second is its twin.
_DOWN = re.compile(r"(.*?)[._](?:lora_A(?:\.[\w-]+)?|lora_down|lora\d?\.down|lora_linear_layer\.down)\.weight")
_UP = re.compile(r".*[._](?:lora_B(?:\.[\w-]+)?|lora_up|lora\d?\.up|lora_linear_layer\.up)\.weight")
# Other ways of changing a model, by a part of their tensors' names. What they add is no product of two factors.
_OTHERS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_w1": "a LoHa",
    "lokr_w": "a LoKr",
    "lora_mid": "a LoCon in Tucker's form",
    "oft_blocks": "an OFT",
    "oft_diag": "an OFT",
    "ia3_": "an IA3",
    "glora": "a GLoRA",
    "boft_": "a BOFT",
}
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_CHUNK_BYTES = 1 << 20


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a LoRA file says of itself: the layers that it changes (in the file's own names), its ranks, its bytes."""

    path: Path
    header: SafetensorsHeader
    layers: tuple[str, ...]
    ranks: tuple[int, ...]  # rising, each once
    bytes: int

    @property
    def rank(self) -> int:
        """The largest of its ranks."""
        return self.ranks[-1]


def find(asked: Adapter) -> Path:
    """The file of a LoRA: at its path, in the folder of LoRAs under its name, or where its content was seen last.

    The name may lack the suffix.

    Raises:
        UserError: there is none; the sentence suggests the nearest name.
    """
    path = folders.user_path(asked.file)
    if path.is_file():
        return path
    shelf = folder()
    name = re.split(r"[\\/]", asked.file)[-1]
    for candidate in (shelf / name, shelf / f"{name}{SUFFIX}"):
        if name and candidate.is_file():
            return candidate
    seen = _seen().get(asked.sha256)
    if seen is not None and Path(seen).is_file():
        return Path(seen)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a LoRA's {SUFFIX} file in it.")
    known = sorted(file.stem for file in shelf.glob(f"*{SUFFIX}")) if shelf.is_dir() else []
    near = difflib.get_close_matches(name.removesuffix(SUFFIX), known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"give its {SUFFIX} file, or put that into {shelf}."
    raise UserError(f"There is no LoRA called {asked.file}; {hint}")


def folder() -> Path:
    """Where LoRAs are looked for by their names alone."""
    return folders.data() / "loras"


def remember(path: Path, content: str) -> None:
    """Keep in mind where a LoRA of this SHA-256 is: pictures carry the hash, but not the path."""
    seen = _seen()
    if seen.get(content) == str(path):
        return
    text = json.dumps({**seen, content: str(path)}, indent=2)
    with contextlib.suppress(OSError):  # it can be given by its path all the same
        write_atomically(_seen_file(), lambda file: file.write(text.encode()))


def read_adapter(path: Path) -> AdapterInfo:
    """What a LoRA file is.

    Raises:
        ModelFileError: it is a pickle, damaged, or no LoRA; one sentence says which and what would do.
    """
    _refuse_pickle(path)
    header = read_safetensors(path)
    for part, kind in _OTHERS.items():
        if any(part in name for name in header.tensors):
            raise ModelFileError(
                f"{path} is {kind}, which cannot run beside the weights; give a plain LoRA (pairs of lora_A, lora_B)."
            )
    ranks: dict[str, int] = {}
    for name, tensor in header.tensors.items():
        match = _DOWN.fullmatch(name)
        if match is not None and len(tensor.shape) >= 2:
            ranks[match.group(1)] = tensor.shape[0]
    ups = sum(_UP.fullmatch(name) is not None for name in header.tensors)
    if not ranks or not ups:
        raise ModelFileError(
            f"{path} is no LoRA: none of its {len(header.tensors)} tensors is a pair of lora_A and lora_B or of "
            "lora_down and lora_up; a whole model is given by --model."
        )
    if len(ranks) != ups:
        raise ModelFileError(
            f"{path} is damaged: it has {len(ranks)} first matrices and {ups} second ones; download the file again."
        )
    if min(ranks.values()) < 1:
        raise ModelFileError(f"{path} is damaged: it has a matrix of rank 0; download the file again.")
    return AdapterInfo(
        path=path,
        header=header,
        layers=tuple(ranks),
        ranks=tuple(sorted(set(ranks.values()))),
        bytes=sum(tensor.end - tensor.start for tensor in header.tensors.values()),
    )


def sha256(path: Path) -> str:
    """SHA-256 of the whole file, as sites that share LoRAs list it. Raises ModelFileError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}).") from error
    return digest.hexdigest()


def _seen_file() -> Path:
    return folders.data() / "loras.json"


def _seen() -> dict[str, str]:
    """Where LoRAs were, by their content."""
    try:
        entries = json.loads(_seen_file().read_text(encoding="utf-8"))
        return {str(content): str(path) for content, path in entries.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _refuse_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}); check that the file is there.") from error
    if start.startswith(_PICKLES):
        raise ModelFileError(
            f"{path} is a pickle, which could run any program and is never loaded; get the LoRA as {SUFFIX}."
        )
