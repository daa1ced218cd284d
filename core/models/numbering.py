"""The numbers of blocks and layers in tensors' names, and those that the models' original code counts by instead.

diffusers numbers a network's stages and the layers in each; original code often numbers all layers of a network in one
row. What follows from a stage and a layer depends on how many of each the network has. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# A stage of a network that is one row of parts: what leads in, what changes the resolution, and the layers. An encoder
# changes it behind its layers, a decoder before them (diffusers, loaders/single_file_utils.py,
# convert_ltx_vae_checkpoint_to_diffusers, whose three tables all follow from this order).
_PART = re.compile(
    r"(?P<side>encoder|decoder)\.(?:(?P<mid>mid_block)|(?:down|up)_blocks\.(?P<stage>\d+))"
    r"\.(?P<part>conv_in|conv_out|resnets|time_embedder|downsamplers|upsamplers)\..*"
)
_ATTENTION = re.compile(r"up_blocks\.\d+\.attentions\.")
_RANK = {"conv_in": 0, "upsamplers": 1, "resnets": 2, "time_embedder": 2, "downsamplers": 3, "conv_out": 4}
_LAST = 1 << 20  # behind every stage

Part = tuple[str, int, int]
"""A part of a network: its side, its stage and its rank there."""


class Numbers:
    """What is to be known of all names of a network to fill in the numbers of one."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._attending = {name.split(".")[1] for name in self._names if _ATTENTION.match(name)}
        self._last = self._most(r"transformer_blocks\.(\d+)\..*")
        self._down = self._most(r"(?:encoder\.)?down_blocks\.\d+\.resnets\.(\d+)\..*") + 1
        self._up = self._most(r"(?:decoder\.)?up_blocks\.\d+\.resnets\.(\d+)\..*") + 1
        self._stages = self._most(r"(?:decoder\.)?up_blocks\.(\d+)\..*")
        found = {part for name in self._names if (part := _part(name)) is not None}
        self._rows = {side: sorted(part for part in found if part[0] == side) for side in ("encoder", "decoder")}

    def _most(self, pattern: str) -> int:
        compiled = re.compile(pattern)
        return max((int(found[1]) for name in self._names if (found := compiled.fullmatch(name))), default=0)

    def fits(self, match: re.Match[str]) -> bool:
        """Whether what must be the last block is."""
        said = match.groupdict()
        return "last" not in said or int(said["last"]) == self._last

    def fill(self, template: str, match: re.Match[str]) -> str:
        """A name of the file."""
        said = {key: value for key, value in match.groupdict().items() if value is not None}
        i, j = int(said.get("i", 0)), int(said.get("j", 0))
        part = _part(match.string)
        known = {
            **said,
            # a UNet counts layers through its stages: on the way down behind conv_in and each downsampler
            "down": 1 + i * (self._down + 1) + j,
            "downsampled": 1 + i * (self._down + 1) + self._down,
            "middle": 2 * j,
            "up": i * self._up + j,
            "upsampled": i * self._up + self._up - 1,
            "behind": 2 if str(i) in self._attending else 1,
            # a VAE counts its decoder's stages from the picture
            "back": self._stages - i,
            "next": j + 1,
            # Wan's VAE counts the decoder's layers in one row, in which a stage's upsampler follows its layers; where
            # it has stages, what changes the resolution is the last of a stage's row
            "layer": i * (self._up + 1) + j,
            "layers": i * (self._up + 1) + self._up,
            "downs": self._down,
            "ups": self._up,
            "place": self._rows[part[0]].index(part) if part is not None else 0,
        }
        return template.replace("*", said.get("star", "")).format(**known)


def _part(name: str) -> Part | None:
    found = _PART.fullmatch(name)
    if found is None:
        return None
    # an encoder ends with its middle, and a decoder begins with it
    middle = _LAST if found["side"] == "encoder" else -1
    return found["side"], middle if found["mid"] else int(found["stage"]), _RANK[found["part"]]
