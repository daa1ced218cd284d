"""The formats that weights are stored in, as plain data: bytes, and the error that each makes. No torch.

Block sizes are ggml's (ggml-common.h). `rel_rmse` is ||w - w'|| / ||w||, measured on 512 x 2048 f32 matrices of
Gaussian values with ggml's own encoders; BF16 and F16 are the rounding errors of their mantissas measured in the same
way.
"""

from __future__ import annotations

import msgspec


class Format(msgspec.Struct, frozen=True):
    """`block_elements` neighbours of a row share `block_bytes` bytes; a row must divide by `block_elements`."""

    name: str
    block_elements: int
    block_bytes: int
    rel_rmse: float

    @property
    def bits(self) -> float:
        """Stored bits of one weight."""
        return 8 * self.block_bytes / self.block_elements

    @property
    def packed(self) -> bool:
        """Whether numbers share blocks: what a file has so is neither packed again nor part of a block read."""
        return self.block_elements > 1

    @property
    def held_packed(self) -> bool:
        """Whether a device holds it as it is stored, to be decoded where it is multiplied: packed formats and F8.

        What is stored in 16 bits or more is held as the device computes.
        """
        return self.packed or self.name == "F8_E4M3"

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of this shape; the last dimension is a row.

        Raises:
            ValueError: the row does not divide into blocks.
        """
        elements = 1
        for extent in shape:
            elements *= extent
        if not self.takes(shape):
            raise ValueError(
                f"rows of {shape[-1] if shape else 1} do not divide by {self.block_elements} ({self.name})"
            )
        return elements // self.block_elements * self.block_bytes

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be stored in it."""
        return not self.packed or (len(shape) > 1 and shape[-1] % self.block_elements == 0)


FORMATS = {
    entry.name: entry
    for entry in (
        Format("F32", 1, 4, 0.0),
        Format("F16", 1, 2, 0.0002),
        Format("BF16", 1, 2, 0.0017),
        Format("F8_E4M3", 1, 1, 0.0265),  # scaled per tensor
        Format("Q8_0", 32, 34, 0.0054),
        Format("Q6_K", 256, 210, 0.0178),
        Format("Q5_K", 256, 176, 0.0361),
        Format("Q5_1", 32, 24, 0.0378),
        Format("Q5_0", 32, 22, 0.0427),
        Format("Q4_K", 256, 144, 0.0713),
        Format("IQ4_NL", 32, 18, 0.0761),
        Format("IQ4_XS", 256, 136, 0.0767),
        Format("Q4_1", 32, 20, 0.0782),
        Format("Q4_0", 32, 18, 0.0860),
        Format("MXFP4", 32, 17, 0.114),
        Format("Q3_K", 256, 110, 0.151),
        Format("Q2_K", 256, 84, 0.297),
    )
}

# What a K format becomes on rows that do not divide by 256 but do by 32: the next one up, never a silent F16.
ROW_32 = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "IQ4_XS": "IQ4_NL", "Q3_K": "IQ4_NL", "Q2_K": "IQ4_NL"}


def fitting(name: str, shape: tuple[int, ...], source: str) -> str:
    """The format that a tensor of this shape really gets when `name` is asked for.

    Rows of 32 take the partner in ROW_32; what fits no packed format stays in its source format.
    """
    for candidate in (name, ROW_32.get(name, "")):
        if candidate and FORMATS[candidate].takes(shape):
            return candidate
    return source
