"""At which sizes each kind of network is measured, and which monomials its polynomials may have.

Operations of a transformer are quadratic in its tokens and those of a VAE linear in its pixels, but for its attention;
so these monomials fit them exactly. The peak of activations is the largest of several linear functions, one for each
place where it may be reached, and the fit is a compromise over the sizes that people ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.generation.dummy_inputs import Size


@dataclass(frozen=True)
class Samples:
    """`sizes` are measured with the efficient attention kernel, `matrix_sizes` with the plain one too."""

    sizes: tuple[Size, ...]
    matrix_sizes: tuple[Size, ...]
    flops: tuple[str, ...]
    activation: tuple[str, ...]
    matrix: tuple[str, ...]


def _samples(sizes: str, flops: str, activation: str, *, matrix: str | None = None, matrix_sizes: str = "") -> Samples:
    """Sizes are written frames x rows x columns + text tokens. Without `matrix` its monomials are those of `flops`."""
    return Samples(
        tuple(_size(text) for text in sizes.split()),
        tuple(_size(text) for text in (matrix_sizes or sizes).split()),
        tuple(flops.split()),
        tuple(activation.split()),
        tuple((flops if matrix is None else matrix).split()),
    )


def _size(text: str) -> Size:
    positions, _, tokens = text.partition("+")
    frames, height, width = (int(extent) for extent in positions.split("x"))
    return Size(frames, height, width, int(tokens or 0))


_JOINT = "1 N T N*N N*T T*T"
# 512 to 2048 pixels at a factor of 8
_PICTURES = "1x64x64+64 1x96x128+512 1x128x128+256 1x128x160+512 1x192x192+128 1x256x256+512"

SAMPLES = {
    "text": _samples("1x1x1+64 1x1x1+128 1x1x1+256 1x1x1+384 1x1x1+512", "1 T T*T", "1 T T*T"),
    # LTX-2's connectors take multiples of their 128 registers
    "connected text": _samples("1x1x1+128 1x1x1+256 1x1x1+512 1x1x1+1024", "1 T T*T", "1 T T*T"),
    "padded text": _samples("1x1x1", "1", "1"),
    "image denoiser": _samples(_PICTURES, _JOINT, "1 N T"),
    "image control": _samples(_PICTURES, _JOINT, "1 N T"),
    "image vae": _samples(
        "1x32x32 1x64x64 1x64x128 1x128x128 1x192x192",
        "1 A A*A",
        "1 A",
        matrix_sizes="1x96x96 1x128x128 1x160x160 1x192x192 1x256x256 1x320x320",
    ),
    # from a picture to 121 frames of 1280 x 704 pixels, at factors of 8 to 32
    "clip denoiser": _samples(
        "1x32x32+64 5x44x80+512 13x30x52+128 16x16x24+512 21x60x104+512 31x44x80+256", _JOINT, "1 N T"
    ),
    "sounding clip denoiser": _samples(
        "1x16x24+256 4x16x24+1024 7x16x24+512 7x32x48+1024 10x8x12+1024 13x16x24+1024 16x12x20+256 16x32x48+1024 "
        "19x22x40+512 31x16x24+128 31x32x48+512",
        f"{_JOINT} F F*F N*F F*T",
        "1 N T F",
    ),
    "sound denoiser": _samples(
        "128x1x1+64 256x1x1+128 512x1x1+64 1024x1x1+16 1024x1x1+128 2048x1x1+64", _JOINT, "1 N T"
    ),
    # Wan's decodes frame by frame and peaks from the third on: a single picture needs a third of what this says
    "clip vae": _samples("3x48x64 5x16x24 7x44x80 9x32x48 13x60x104", "1 A N A*A N*A", "1 A N"),
    "clip upsampler": _samples("1x8x12 7x8x12 16x8x12 16x16x24 31x16x24", "1 A N", "1 A N", matrix_sizes="1x8x12"),
    # sound as long as a clip
    "clip sound": _samples("4x1x1 10x1x1 16x1x1 22x1x1 31x1x1", "1 F", "1 F", matrix_sizes="4x1x1"),
    "sound vae": _samples("64x1x1 128x1x1 256x1x1 1024x1x1", "1 N", "1 N", matrix_sizes="64x1x1"),
}
"""By the kinds of core.generation.dummy_inputs.Call."""
