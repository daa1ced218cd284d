"""What a model needs, as plain data: components, their blocks in execution order, tensors, operations, activations.

A profile is all that planning knows of a model, so a model can be planned before it is downloaded. The shipped ones in
resources/models are made from configs on the meta device (core.generation.measure); a model on this machine takes its
tensors from its files' headers. No torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from core.messages import ModelFileError, Phase, UserError
from core.resources import resource

# Tiles overlap by a quarter of their edge (diffusers' tile_overlap_factor) and are all kept until they are joined.
_TILES_KEPT = 1 / (1 - 0.25) ** 2
# At the end there are tiles, rows, the whole and its clamped copy: 4.69 outputs in a dry run of Wan's, 81 x 720 x 1280.
_TILES_JOINED = 4.7

Polynomial = dict[str, float]
"""Coefficients by monomial: keys are products of variables such as "1", "N", "N*N", "N*T", "A", "T".

N counts latent positions of the whole clip (frames * height * width of the latents, before any patching), A those of
one frame, F latent frames (N / A, so nobody has to give it), T text tokens. For sound A is 1 and N the length of the
latents. Operations count a multiply-add as two. A picture that is referred to joins the sequence: add its latent
positions to N.
"""


def evaluate(polynomial: Polynomial, variables: Mapping[str, float]) -> float:
    """The value at N, A, T (and "1", which is 1)."""
    total = 0.0
    for monomial, coefficient in polynomial.items():
        value = coefficient
        for variable in monomial.split("*"):
            if variable == "F" and "F" not in variables:
                value *= variables["N"] / variables["A"]
            elif variable != "1":
                value *= variables[variable]
        total += value
    return total


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A weight. `role` is linear, embedding, conv, modulation (foldable), io (in- and output) or keep (1-D, norms).

    `stored` is the format that it has, where a model's file has some tensors packed.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    stored: str = ""


class Kernels(msgspec.Struct, frozen=True, array_like=True):
    """Kernels of a block that are about as large as each other, all together, in a pass with a batch of one.

    `kind` is product (matrix products, convolutions, attention), function (norms, activations, softmax) or move (sums,
    copies). `bytes` are read and written beside the weights with 16-bit compute, `wide` with F32, where casts between
    floats fall away; `weights` counts the numbers of weights that are read.
    """

    kind: str
    count: Polynomial
    flops: Polynomial
    bytes: Polynomial
    wide: Polynomial
    weights: int


class BlockKind(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Blocks that are alike: the same tensors and the same operations in a pass with a batch of one.

    Without operations they do not run in it: the other direction of a VAE, what sees pictures in a text encoder. A
    profile made before kernels were counted has none.
    """

    tensors: list[Tensor]
    flops: Polynomial = {}
    kernels: list[Kernels] = []


class ComponentProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One network. `order` lists (kind, how many in a row) in execution order; `rest` is what lies outside of blocks.

    `activation` is the peak of device bytes beside the weights in one pass with a batch of one and 16-bit compute,
    with an attention kernel that never materialises its matrix; `attention_matrix` is what the plain (maths) kernel
    needs besides. `growth` lists (how many, bytes of each) the allocations for which an allocator that keeps what is
    freed has to ask for more memory during such a pass; it is more than the peak where freed pieces are too small for
    what follows. A VAE's figures are those of decoding; `encode_...` are the other direction's, in the same
    variables, and `output` the bytes of what it decodes, or of what a control network hands to the one that it steers.
    `force_upcast` says that it computes in F32 where the rest computes in F16.
    """

    class_name: str
    source_format: str = "BF16"
    kinds: dict[str, BlockKind] = {}
    order: list[tuple[str, int]] = []
    rest: BlockKind = BlockKind(tensors=[])
    activation: Polynomial = {}
    attention_matrix: Polynomial = {}
    growth: list[tuple[int, Polynomial]] = []
    encode_flops: Polynomial = {}
    encode_activation: Polynomial = {}
    encode_attention_matrix: Polynomial = {}
    encode_growth: list[tuple[int, Polynomial]] = []
    output: Polynomial = {}
    force_upcast: bool = False

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        counts = dict.fromkeys(self.kinds, 0)
        for kind, count in self.order:
            counts[kind] += count
        parts = [(self.rest, 1), *((self.kinds[kind], count) for kind, count in counts.items())]
        return sum(_elements(tensor.shape) * count for part, count in parts for tensor in part.tensors)


def flops(component: ComponentProfile, variables: Mapping[str, float]) -> float:
    """Operations of one pass with a batch of one: all blocks and what is outside of them."""
    blocks = sum(evaluate(component.kinds[kind].flops, variables) * count for kind, count in component.order)
    return blocks + evaluate(component.rest.flops, variables)


def activation(
    component: ComponentProfile,
    variables: Mapping[str, float],
    *,
    kernel: str = "efficient",
    batch: int = 1,
    encode: bool = False,
) -> int:
    """Peak bytes beside the weights in one pass at 16-bit compute.

    The formula behind core.generation.dryrun's measurement; a test holds the two within 3 %. Twice as much where the
    component computes in F32. Workspaces of convolutions are not in it (see there).

    Args:
        variables: N, A and T; for a tiled VAE those of one tile (see `tiled_activation`).
        kernel: "efficient" never holds the attention matrix, "math" does.
        encode: a VAE's other direction.
    """
    peak = evaluate(component.encode_activation if encode else component.activation, variables)
    if kernel == "math":
        matrix = component.encode_attention_matrix if encode else component.attention_matrix
        peak += max(0.0, evaluate(matrix, variables))  # below 0 where something else makes the peak
    return round(max(0.0, peak) * batch)


def tiled_activation(
    component: ComponentProfile,
    variables: Mapping[str, float],
    edge: int,
    *,
    kernel: str = "efficient",
    encode: bool = False,
) -> int:
    """Peak bytes beside the weights of a VAE that works in square tiles, as diffusers' autoencoders do.

    An upper bound: one tile's activations beside what has been decoded, or the tiles and their joined copies at last.
    Encoding, it is a tile's beside the picture; what it makes of the others is small.

    Args:
        variables: N and A of the whole picture or clip.
        edge: of a tile in latent positions.
        encode: the other direction.
    """
    area = min(float(edge * edge), variables["A"])
    tile = {**variables, "A": area, "N": area * variables["N"] / variables["A"]}
    peak = activation(component, tile, kernel=kernel, encode=encode)
    if area == variables["A"]:
        return peak
    whole = evaluate(component.output, variables)
    return round(peak + whole if encode else max(peak + _TILES_KEPT * whole, _TILES_JOINED * whole))


class PhaseNeed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One phase of a job: what runs, how often, and at which fraction of the picture's size.

    `passes` is "once" or "steps"; `share` of the steps falls to this phase (Wan's two experts); `scale` multiplies
    width and height (the first sampling of a two-stage model runs at a half).
    """

    phase: Phase
    label: str
    components: list[str]
    passes: str = "once"
    share: float = 1.0
    scale: float = 1.0
    steps: int | None = None  # a fixed number of its own
    guided: bool = False  # runs twice per step under classifier-free guidance


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request means when it does not say, and how pixels become latents."""

    width: int
    height: int
    steps: int
    guidance: float | None = None
    frames: int = 1
    text_tokens: int = 512
    spatial: int = 8  # pixels of an edge per latent position
    temporal: int = 1  # frames per latent frame, after the first
    size_multiple: int = 16
    seconds: float | None = None  # sound: length
    positions_per_second: float | None = None  # sound: latent positions of a second


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A model as planning sees it. `sources` says where configs and figures come from."""

    name: str
    title: str
    family: str
    licence: str = ""
    makes: str = "image"  # image, video, audio
    defaults: Limits
    components: dict[str, ComponentProfile]
    phases: list[PhaseNeed]
    sources: dict[str, str] = {}


def names() -> list[str]:
    """The names of the profiles that ship, sorted."""
    return sorted(path.stem for path in resource("models").glob("*.json"))


def load(name: str) -> ModelProfile:
    """A shipped profile by name. Raises UserError with the nearest names where there is none."""
    if name not in names():
        near = difflib.get_close_matches(name.lower(), names(), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names())}."
        raise UserError(f"There is no model called {name}; {hint}")
    return read(resource("models", f"{name}.json"))


def read(path: Path) -> ModelProfile:
    """A profile from a file. Raises ModelFileError where the file is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelProfile)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}).") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ModelFileError(f"{path} is no model profile ({error}).") from error


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product
