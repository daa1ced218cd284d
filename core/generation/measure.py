"""Makes a model's profile from its components' configs: built on the meta device, run dry at several sizes, fitted.

`python -m core.generation.measure flux-schnell --out resources/models` writes the profile that ships; its configs are
in resources/models/configs. core.generation.measure_folder measures a folder that no shipped profile matches.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from core.files import write_atomically
from core.generation import alike, bounds, dummy_clips, dummy_controls, dummy_inputs
from core.generation.dryrun import OUTSIDE, DryRun, dry_run
from core.generation.dummy_inputs import Call, Size
from core.generation.fit import fit
from core.generation.layers import role
from core.generation.parts import Part, model_of
from core.generation.samples import SAMPLES, Samples
from core.generation.skeletons import persistent_tensors, skeleton
from core.messages import UserError
from core.models.profile import BlockKind, ComponentProfile, ModelProfile, Polynomial, Tensor
from core.residency.blocks import blocks

CALLS = dummy_inputs.CALLS | dummy_clips.CALLS | dummy_controls.CALLS
_measured: dict[bytes, ComponentProfile] = {}


class Network:
    """A component on the meta device, with the runs that were made of it."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.call = _call(part.class_name)
        self.module = skeleton(part.library, part.class_name, part.config)
        if self.call.prepare is not None:
            self.call.prepare(self.module)
        self._runs: dict[tuple[Size, str, bool], DryRun] = {}

    def run(self, size: Size, kernel: str = "efficient", *, encode: bool = False) -> DryRun:
        """A dry run at a size, remembered. `encode` is a VAE's other direction."""
        key = (size, kernel, encode)
        if key not in self._runs:
            inputs, method = (self.call.encode, "encode") if encode else (self.call.inputs, self.call.method)
            if inputs is None:
                raise ValueError(f"{self.part.class_name} has no such direction")
            given = inputs(self.module.config, size)
            call = getattr(self.module, method) if method else None
            self._runs[key] = dry_run(self.module, given, kernel=kernel, call=call)
        return self._runs[key]

    def tensors(self) -> dict[str, list[Tensor]]:
        """Its tensors by block, named within the block; `OUTSIDE` has the others."""
        found = self.block_paths()
        tensors: dict[str, list[Tensor]] = {path: [] for path in (*found, OUTSIDE)}
        denoiser = "denoiser" in self.call.kind
        for name, tensor in persistent_tensors(self.module):
            path = next((path for path in found if name.startswith(f"{path}.")), OUTSIDE)
            owner = self.module.get_submodule(name.rpartition(".")[0])
            what = role(self.part.class_name, name, tensor, owner, inside=path != OUTSIDE, denoiser=denoiser)
            tensors[path].append(Tensor(name.removeprefix(f"{path}."), tuple(tensor.shape), what))
        return tensors

    def block_paths(self) -> list[str]:
        """Where its blocks are, in the order of definition."""
        paths = {id(child): path for path, child in self.module.named_modules()}
        return [paths[id(block)] for block in blocks(self.module)]


def measure(part: Part) -> ComponentProfile:
    """The profile of one component; one that was measured before is remembered.

    Raises:
        UserError: its class is none that can be measured.
        ValueError: its config does not fit its class.
    """
    key = msgspec.json.encode(part)
    if key not in _measured:
        _measured[key] = _measure(Network(part))
    return _measured[key]


def measure_model(name: str) -> ModelProfile:
    """The profile of a model whose configs ship. Raises UserError where there are none."""
    card, parts = model_of(name)
    components = {component: measure(part) for component, part in parts.items()}
    sources = {component: part.source for component, part in parts.items() if part.source}
    return msgspec.structs.replace(card, components=components, sources={**sources, **card.sources})


def _samples(network: Network) -> Samples:
    """Where it is measured: at the sizes of its kind, or at smaller ones where its config takes no larger."""
    samples, config = SAMPLES[network.call.kind], network.module.config
    return dataclasses.replace(
        samples,
        sizes=bounds.within(samples.sizes, config),
        matrix_sizes=bounds.within(samples.matrix_sizes, config),
    )


def _measure(network: Network) -> ComponentProfile:
    part, samples = network.part, _samples(network)
    kinds, order, rest = _kinds(network, samples)
    activation, matrix = _peaks(network, samples)
    profile = ComponentProfile(
        class_name=part.class_name,
        source_format=part.source_format,
        kinds=kinds,
        order=order,
        rest=rest,
        activation=activation,
        attention_matrix=matrix,
        growth=alike.growth(
            [network.run(size) for size in samples.sizes], [size.variables for size in samples.sizes], samples.flops
        ),
        force_upcast=bool(getattr(network.module.config, "force_upcast", False)),
    )
    variables = [size.variables for size in samples.sizes]
    if network.call.method == "decode" or network.call.kind == dummy_controls.KIND:
        output = fit(samples.activation, variables, [network.run(size).output for size in samples.sizes])
        profile = msgspec.structs.replace(profile, output=output)
    if network.call.encode is not None:
        activation, matrix = _peaks(network, samples, encode=True)
        profile = msgspec.structs.replace(
            profile,
            encode_flops=fit(
                samples.flops, variables, [network.run(size, encode=True).total_flops for size in samples.sizes]
            ),
            encode_activation=activation,
            encode_attention_matrix=matrix,
            encode_growth=alike.growth(
                [network.run(size, encode=True) for size in samples.sizes], variables, samples.flops
            ),
        )
    return profile


def _call(class_name: str) -> Call:
    if class_name not in CALLS:
        raise UserError(f"A {class_name} cannot be measured yet; these can: {', '.join(sorted(CALLS))}.")
    return CALLS[class_name]


def _peaks(network: Network, samples: Samples, *, encode: bool = False) -> tuple[Polynomial, Polynomial]:
    """(activation, attention_matrix) of one direction."""
    peaks = [network.run(size, encode=encode).peak for size in samples.sizes]
    activation = fit(samples.activation, [size.variables for size in samples.sizes], peaks)
    # where the plain kernel's matrix is not what makes the peak it adds nothing: a bend that no polynomial has, so the
    # fit is of where it does, and core.models.profile.activation cuts off what is below 0
    plain = [(size, network.run(size, "math", encode=encode).peak) for size in samples.matrix_sizes]
    besides = [(size, peak, peak - network.run(size, encode=encode).peak) for size, peak in plain]
    seen = [(size.variables, peak, more) for size, peak, more in besides if more > 0]
    matrix = fit(samples.matrix, [at for at, _, _ in seen], [more for *_, more in seen], [peak for _, peak, _ in seen])
    return activation, matrix


def _kinds(network: Network, samples: Samples) -> tuple[dict[str, BlockKind], list[tuple[str, int]], BlockKind]:
    """Blocks that are alike as kinds, their order as runs of equal kinds, and what is outside of blocks."""
    runs = [network.run(size) for size in samples.sizes]
    variables = [size.variables for size in samples.sizes]
    tensors = network.tensors()

    def block(path: str) -> BlockKind:
        flops = fit(samples.flops, variables, [run.flops.get(path, 0) for run in runs])
        return BlockKind(tensors=tensors[path], flops=flops)

    def with_kernels(kind: BlockKind, path: str) -> BlockKind:
        launched = [run.kernels.get(path, ()) for run in runs]
        return msgspec.structs.replace(kind, kernels=alike.kernels(launched, variables, samples.flops))

    ran = [path for path in runs[0].flops if path != OUTSIDE]
    members = [(path, block(path)) for path in (*ran, *(path for path in network.block_paths() if path not in ran))]
    names = _names(members)
    kinds: dict[str, BlockKind] = {}
    for path, kind in members:
        if names[path] not in kinds:
            kinds[names[path]] = with_kernels(kind, path)
    order = [(name, len(list(group))) for name, group in itertools.groupby(names[path] for path, _ in members)]
    return kinds, order, with_kernels(block(OUTSIDE), OUTSIDE)


def _names(members: Sequence[tuple[str, BlockKind]]) -> dict[str, str]:
    """The kind of each block by path: its list's name where that has one kind only, else its first member's path."""
    keys = {path: msgspec.json.encode(kind) for path, kind in members}
    lists: dict[str, set[bytes]] = {}
    for path, key in keys.items():
        lists.setdefault(path.rpartition(".")[0], set()).add(key)
    names: dict[bytes, str] = {}
    for path, key in keys.items():
        container = path.rpartition(".")[0]
        names.setdefault(key, container if len(lists[container]) == 1 else path)
    return {path: names[key] for path, key in keys.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure models by name and write their profiles."""
    parser = argparse.ArgumentParser(prog="python -m core.generation.measure", description=main.__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a folder of resources/models/configs")
    parser.add_argument("--out", type=Path, default=Path(), help="where to write NAME.json")
    given = parser.parse_args(arguments)
    for name in given.names:
        profile = encode(measure_model(name))
        write_atomically(given.out / f"{name}.json", partial(_write, profile))


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def encode(profile: ModelProfile) -> bytes:
    """A profile as its file has it: compact, one line a component."""
    text: bytes = msgspec.json.encode(profile)
    return text + b"\n"


if __name__ == "__main__":
    main()
