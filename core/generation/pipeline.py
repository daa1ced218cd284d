"""Builds a modular pipeline over a local model folder: its blocks by phase, and its components one by one."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusers import ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import (
    MODULAR_PIPELINE_MAPPING,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    SequentialPipelineBlocks,
)
from diffusers.modular_pipelines.modular_pipeline_utils import InputParam
from diffusers.pipelines.auto_pipeline import _get_model
from torch import nn

from core.generation import stock
from core.generation.experts import experts
from core.generation.opening import Opening, first_line
from core.generation.packing import Tick
from core.generation.skeletons import from_folder
from core.hardware.interface import Accelerator
from core.messages import ModelFileError, Phase, Request, UserError
from core.models.info import ModelInfo
from core.models.starting import can_start, check_starts
from core.residency.folding import Folding
from core.residency.wanted import Opened

# The first part of a block's name says its phase; whatever else prepares inputs belongs to encoding.
_PHASES = {"vae_encoder": Phase.IMAGE_ENCODE, "denoise": Phase.DENOISE, "decode": Phase.DECODE}
_ORDER = (Phase.ENCODE, Phase.IMAGE_ENCODE, Phase.DENOISE, Phase.DECODE)


@dataclass
class PhaseBlocks:
    """The blocks of one phase in order, and the names of the networks that they run."""

    phase: Phase
    blocks: dict[str, ModularPipelineBlocks]
    networks: tuple[str, ...]


@dataclass
class Workflow:
    """What a kind of request runs: the inputs that its blocks take, its phases in order, and the loop among them."""

    inputs: list[InputParam]
    phases: list[PhaseBlocks]
    loop: LoopSequentialPipelineBlocks

    def phase(self, phase: Phase) -> PhaseBlocks:
        """The blocks of one phase."""
        return next(group for group in self.phases if group.phase is phase)

    @property
    def input_names(self) -> set[str]:
        """The names of the inputs that the blocks take."""
        return {parameter.name for parameter in self.inputs if parameter.name}


@dataclass
class Pipeline:
    """A model's pipeline: diffusers' object that knows every component's config, and the blocks that run.

    `text` is what a request runs that starts from noise, `picture` what one runs that starts from a picture; None where
    the model's family cannot.
    """

    info: ModelInfo
    accelerator: Accelerator
    modular: ModularPipeline
    text: Workflow
    picture: Workflow | None
    experts: tuple[str, ...] = ()  # networks that share the loop's steps (core.generation.experts)
    skeletons: dict[str, nn.Module] = field(default_factory=dict)
    default_guider: Any = None
    foldings: list[Folding] = field(default_factory=list)  # of the networks that are attached
    unfoldable: str = ""  # why modulation cannot be computed before the network runs

    @property
    def phases(self) -> list[PhaseBlocks]:
        """Those of a request that starts from noise."""
        return self.text.phases

    @property
    def loop(self) -> LoopSequentialPipelineBlocks:
        """The loop of a request that starts from noise; it calls the denoiser as that of any other does."""
        return self.text.loop

    def phase(self, phase: Phase) -> PhaseBlocks:
        """The blocks of one phase of a request that starts from noise."""
        return self.text.phase(phase)

    def workflow(self, request: Request) -> Workflow:
        """What a request runs. Raises UserError where it starts from a picture and the model's family cannot."""
        if request.init is None:
            return self.text
        if self.picture is None:
            check_starts(self.info.family, self.info.name)
            raise UserError(f"{self.info.name} cannot start from a picture.")
        return self.picture

    def held(self, request: Request) -> list[tuple[Phase, tuple[str, ...]]]:
        """The networks that are held at a time, in order: those of a phase, or one expert after the other."""
        apart = [(Phase.DENOISE, (name,)) for name in self.experts]
        return [
            entry
            for group in self.workflow(request).phases
            for entry in (apart if apart and group.phase is Phase.DENOISE else [(group.phase, group.networks)])
        ]

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizers of the text encoders, by component name."""
        components = self.modular.components.items()
        return {name: part for name, part in components if name.startswith("tokenizer") and part is not None}

    def open(self, name: str, wanted: str, tick: Tick, *, fold: bool = False) -> Opened:
        """Make one component ready to be held in a format; see `Opening.opened`."""
        denoiser = any(name in group.networks for group in self.phases if group.phase is Phase.DENOISE)
        spec = self.modular.get_component_spec(name)
        opening = Opening(self.info, self.info.components[name], spec, self.accelerator, denoiser)
        return opening.opened(wanted, tick, fold=fold)

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
    starting = [False, True] if can_start(info.family) else [False]
    kinds = [_execution_blocks(base, image=image) for image in starting]
    blocks = kinds[-1]  # which ask for every component that the others do

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
                f"({first_line(error)}); download the model again."
            ) from error
    text, *picture = (_workflow(some, set(skeletons), info) for some in kinds)
    guider = getattr(modular, "guider", None)
    return Pipeline(
        info, accelerator, modular, text, picture[0] if picture else None, experts(text.loop), skeletons, guider
    )


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


def _execution_blocks(pipeline_class: type[ModularPipeline], *, image: bool) -> SequentialPipelineBlocks:
    """The blocks that a request runs, from text or from an image too, flat and in order; conditional ones resolved."""
    diffusers = importlib.import_module("diffusers")
    blocks_class = getattr(diffusers, pipeline_class.default_blocks_name)
    given = {"prompt": True, "image": True} if image else {"prompt": True}
    return stock.agreeing(blocks_class().get_execution_blocks(**given))


def _workflow(blocks: SequentialPipelineBlocks, networks: set[str], info: ModelInfo) -> Workflow:
    loop = next((b for b in blocks.sub_blocks.values() if isinstance(b, LoopSequentialPipelineBlocks)), None)
    if loop is None:
        raise UserError(f"{info.name} is a {info.family}, which this version cannot run.")
    loop.set_progress_bar_config(disable=True)
    return Workflow(list(blocks.inputs), _group(blocks, networks), loop)


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
    return [groups[phase] for phase in _ORDER if phase in groups]


def _is_loop(block: ModularPipelineBlocks) -> bool:
    return isinstance(block, LoopSequentialPipelineBlocks)
