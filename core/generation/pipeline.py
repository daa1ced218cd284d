"""Builds a modular pipeline over a local model folder: its blocks by phase, and its components one by one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from diffusers import ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import (
    MODULAR_PIPELINE_MAPPING,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    SequentialPipelineBlocks,
)
from diffusers.pipelines.auto_pipeline import _get_model
from torch import nn

from core.generation import stock
from core.generation.experts import experts
from core.generation.packing import Tick, packed_file, packed_formats, packed_sources, with_aliases
from core.generation.roles import modulation_layers
from core.generation.skeletons import from_folder
from core.generation.sources import Files, known, packed_in_files
from core.generation.weights import Slabs, by_name, filled, in_files, in_memory, packed
from core.hardware.interface import Accelerator
from core.messages import ModelFileError, Phase, UserError
from core.models.info import ComponentInfo, ModelInfo
from core.precision.dtypes import component_dtype
from core.residency.folding import Folding
from core.residency.warm import Opened

# The first part of a block's name says its phase; whatever else prepares inputs belongs to encoding.
_PHASES = {"denoise": Phase.DENOISE, "decode": Phase.DECODE}


@dataclass
class PhaseBlocks:
    """The blocks of one phase in order, and the names of the networks that they run."""

    phase: Phase
    blocks: dict[str, ModularPipelineBlocks]
    networks: tuple[str, ...]


@dataclass
class Pipeline:
    """A model's pipeline: diffusers' object that knows every component's config, and its blocks grouped by phase."""

    info: ModelInfo
    accelerator: Accelerator
    modular: ModularPipeline
    phases: list[PhaseBlocks]
    loop: LoopSequentialPipelineBlocks
    experts: tuple[str, ...] = ()  # networks that share the loop's steps (core.generation.experts)
    skeletons: dict[str, nn.Module] = field(default_factory=dict)
    default_guider: Any = None
    foldings: list[Folding] = field(default_factory=list)  # of the networks that are attached
    unfoldable: str = ""  # why modulation cannot be computed before the network runs

    def phase(self, phase: Phase) -> PhaseBlocks:
        """The blocks of one phase."""
        return next(group for group in self.phases if group.phase is phase)

    @property
    def held(self) -> list[tuple[Phase, tuple[str, ...]]]:
        """The networks that are held at a time, in order: those of a phase, or one expert after the other."""
        apart = [(Phase.DENOISE, (name,)) for name in self.experts]
        return [
            entry
            for group in self.phases
            for entry in (apart if apart and group.phase is Phase.DENOISE else [(group.phase, group.networks)])
        ]

    @property
    def input_names(self) -> set[str]:
        """The names of the inputs that the blocks take."""
        return {parameter.name for parameter in self.modular._blocks.inputs if parameter.name}

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizers of the text encoders, by component name."""
        components = self.modular.components.items()
        return {name: part for name, part in components if name.startswith("tokenizer") and part is not None}

    def open(self, name: str, wanted: str, tick: Tick, *, fold: bool = False) -> Opened:
        """Make one component ready to be held in a format.

        Where weights must cross a link they stay in their files until they are needed, if the files hold each tensor
        under a name that is known; else the library reads them into host memory (or, where host and device share
        it, onto the device). What the files do not have in the format is packed once, which `tick` is told of. With
        `fold`, modulation is kept apart, to be computed before the network runs.

        Raises:
            ModelFileError: the files do not hold what the component's config asks for.
            UserError: there is no room on the disk for packed weights.
        """
        skeleton = from_folder(self.modular.get_component_spec(name).type_hint, self.info.path / name)
        dtype = component_dtype(self.accelerator.compute_dtype, getattr(skeleton, "config", None))
        component = self.info.components[name]
        if not self.accelerator.has_own_memory:
            # where host and device share their memory there is no later copy
            module = self._read(name, dtype) if self.info.file is None else self._decode(skeleton, component, dtype)
            return Opened(module.to(self.accelerator.device), wanted)
        folded = modulation_layers(skeleton, component.class_name) if fold else []
        slabs = in_files(skeleton, component, dtype, folded)
        host_bytes = 0
        if self.info.file is not None:
            return self._bind(skeleton, component, wanted, slabs or self._lacking(skeleton, component))
        if slabs is None:
            skeleton = self._read(name, dtype)
            slabs = in_memory(skeleton, folded)
            host_bytes = slabs[0].size + slabs[0].folded_bytes
        denoiser = any(name in group.networks for group in self.phases if group.phase is Phase.DENOISE)
        formats = packed_formats(skeleton, component.class_name, wanted, component.format, denoiser=denoiser)
        if not formats:
            return Opened(skeleton, wanted, slabs, host_bytes=host_bytes)
        formats = with_aliases(formats, slabs[0])
        file = packed_file(self.info.fingerprint, name, formats, slabs, tick)
        slabs, scratch = packed(skeleton, slabs, packed_sources(file), formats)
        return Opened(skeleton, wanted, slabs, scratch, host_bytes)

    def _bind(self, skeleton: nn.Module, component: ComponentInfo, wanted: str, slabs: Slabs) -> Opened:
        """A component of a file for a whole model: what is packed there is held as it is."""
        formats, sources = packed_in_files(skeleton, by_name(skeleton, component), Files())
        if not formats:
            return Opened(skeleton, wanted, slabs)
        slabs, scratch = packed(skeleton, slabs, sources, with_aliases(formats, slabs[0]))
        return Opened(skeleton, wanted, slabs, scratch)

    def _decode(self, skeleton: nn.Module, component: ComponentInfo, dtype: torch.dtype) -> nn.Module:
        """The same in host memory, in the dtype that is computed with."""
        return filled(skeleton, in_files(skeleton, component, dtype) or self._lacking(skeleton, component))

    def _lacking(self, skeleton: nn.Module, component: ComponentInfo) -> NoReturn:
        """Say what a file for a whole model does not have of a component that its config asks for."""
        stored, wanted = by_name(skeleton, component), skeleton.state_dict()
        for name, tensor in stored.items():
            if not known(tensor.type):
                raise ModelFileError(
                    f"{self.info.file}: tensor {name} of the {component.name} is stored as {tensor.type}, which this "
                    "version cannot decode; get the model in another format."
                )
            if name in wanted and tuple(wanted[name].shape) != tensor.shape:
                raise ModelFileError(
                    f"{self.info.file}: tensor {name} of the {component.name} is {list(tensor.shape)}, but its config "
                    f"asks for {list(wanted[name].shape)}; convert the model again."
                )
        lost = next((name for name in wanted if name not in stored), "some tensor")
        raise ModelFileError(
            f"{self.info.file} lacks the tensor {lost} of its {component.name}; convert the model again."
        )

    def _read(self, name: str, dtype: torch.dtype) -> nn.Module:
        """Let the library read a component's weights into host memory."""
        spec = self.modular.get_component_spec(name)
        try:
            module = spec.load(dtype=dtype, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ModelFileError(
                f"The {name} of {self.info.name} could not be read from {self.info.path / name} "
                f"({_first_line(error)}); download the model again."
            ) from error
        missing = [key for key, tensor in module.named_parameters() if tensor.is_meta]
        if missing:
            raise ModelFileError(f"{self.info.path / name} lacks the tensor {missing[0]}; download the model again.")
        ready: nn.Module = module.eval().requires_grad_(False)
        return ready

    def attach(self, modules: Mapping[str, nn.Module], foldings: Mapping[str, Folding]) -> None:
        """Make held components the ones that blocks see. `foldings` compute layers of theirs before they run."""
        for name, module in modules.items():
            setattr(self.modular, name, module)
        self.foldings = [folding for name, folding in foldings.items() if name in modules]

    def detach(self, names: Sequence[str]) -> None:
        """Put skeletons (configs without weights) back where components were held."""
        for name in names:
            setattr(self.modular, name, self.skeletons[name])
        self.foldings = []


def build(info: ModelInfo, accelerator: Accelerator) -> Pipeline:
    """Make the pipeline of a model without reading any weights: networks start as skeletons on the meta device.

    Raises:
        UserError: diffusers has no modular blocks for this family.
        ModelFileError: a component's config or tokenizer cannot be read.
    """
    base = _pipeline_class(info)
    blocks = _execution_blocks(base)
    loop = next((b for b in blocks.sub_blocks.values() if isinstance(b, LoopSequentialPipelineBlocks)), None)
    if loop is None:
        raise UserError(f"{info.name} is a {info.family}, which this version cannot run.")

    # The held components change places between devices and meta, so the first component's device says nothing.
    device = accelerator.device
    members = {"_execution_device": property(lambda self: device), "device": property(lambda self: device)}
    pipeline_class = type(base.__name__, (base,), members | stock.members(base, info))

    modular = pipeline_class(blocks=blocks, pretrained_model_name_or_path=str(info.path), config_dict=info.index)
    skeletons: dict[str, nn.Module] = {}
    for name in modular.pretrained_component_names:
        if name not in info.components:
            continue
        spec = modular.get_component_spec(name)
        try:
            if isinstance(spec.type_hint, type) and issubclass(spec.type_hint, nn.Module):
                skeletons[name] = from_folder(spec.type_hint, info.path / name)
                setattr(modular, name, skeletons[name])
            else:
                setattr(modular, name, stock.reader(spec).load(local_files_only=True))
        except Exception as error:  # configs come from anywhere: any failure to read one is the file's
            raise ModelFileError(
                f"The {name} of {info.name} could not be read from {info.path / name} "
                f"({_first_line(error)}); download the model again."
            ) from error
    loop.set_progress_bar_config(disable=True)
    guider = getattr(modular, "guider", None)
    phases, sharing = _group(blocks, set(skeletons)), experts(loop)
    return Pipeline(info, accelerator, modular, phases, loop, sharing, skeletons, guider)


def _pipeline_class(info: ModelInfo) -> type[ModularPipeline]:
    diffusers = importlib.import_module("diffusers")
    name = None
    with contextlib.suppress(ValueError):
        map_name = MODULAR_PIPELINE_MAPPING.get(_get_model(info.family) or "")
        name = map_name(info.index) if map_name else None
    pipeline_class = getattr(diffusers, name, None) if name else None
    if pipeline_class is None:
        raise UserError(
            f"{info.name} is a {info.family}, a family that this version cannot run; "
            "Flux, Flux2, SDXL, SD3, Z-Image, Qwen-Image, Wan and LTX models can."
        )
    return pipeline_class  # type: ignore[no-any-return]


def _execution_blocks(pipeline_class: type[ModularPipeline]) -> SequentialPipelineBlocks:
    """The blocks that a text-to-image request runs, flat and in order; conditional ones resolved."""
    diffusers = importlib.import_module("diffusers")
    blocks_class = getattr(diffusers, pipeline_class.default_blocks_name)
    return stock.agreeing(blocks_class().get_execution_blocks(prompt=True))


def _group(blocks: SequentialPipelineBlocks, networks: set[str]) -> list[PhaseBlocks]:
    groups: dict[Phase, PhaseBlocks] = {}
    for name, block in blocks.sub_blocks.items():
        phase = _PHASES.get(name.split(".")[0], Phase.ENCODE)
        group = groups.setdefault(phase, PhaseBlocks(phase, {}, ()))
        group.blocks[name] = block
        used = [spec.name for spec in block.expected_components if spec.name in networks]
        group.networks = tuple(dict.fromkeys((*group.networks, *used)))
    # A denoise block may ask for the VAE only to know its scale factor; the skeleton's config answers that.
    denoise = groups[Phase.DENOISE]
    loop_networks = {spec.name for b in denoise.blocks.values() for spec in b.expected_components if _is_loop(b)}
    denoise.networks = tuple(name for name in denoise.networks if name in loop_networks)
    return [groups[phase] for phase in (Phase.ENCODE, Phase.DENOISE, Phase.DECODE) if phase in groups]


def _is_loop(block: ModularPipelineBlocks) -> bool:
    return isinstance(block, LoopSequentialPipelineBlocks)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
