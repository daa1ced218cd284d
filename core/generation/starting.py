"""The picture that a request starts from, on its way to latents: read, encoded by the library's blocks, remembered.

What the VAE makes of a picture goes into the conditioning cache. Some families draw from the request's generator while
they encode, so its state is kept with the latents: what is drawn afterwards is then the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks, PipelineState

from core.generation.conditioning import ConditioningCache
from core.generation.pipeline import PhaseBlocks, Pipeline
from core.library import pictures
from core.messages import Init, Phase, Request

_DRAWN = "generator state"

RunBlocks = Callable[[Iterable[ModularPipelineBlocks]], None]


class StartingPicture:
    """What one resolved request starts from. `init` says it with the file's hash, `remarks` are for people."""

    def __init__(
        self,
        request: Request,
        pipeline: Pipeline,
        group: PhaseBlocks,
        formats: Mapping[str, str],
        state: PipelineState,
        run_blocks: RunBlocks,
    ) -> None:
        """`group` are the blocks that encode it, `formats` those that its networks are held in.

        Raises:
            UserError: the file is not there any more.
        """
        assert request.init is not None
        self._request, self._pipeline, self._group = request, pipeline, group
        self._state, self._run_blocks = state, run_blocks
        self._formats = {name: formats[name] for name in group.networks}
        self._path = Path(request.init.file)
        asked = request.init.sha256
        self.init: Init = msgspec.structs.replace(request.init, sha256=pictures.sha256_of(self._path))
        self.remarks: list[str] = []
        if asked not in ("", self.init.sha256):
            self.remarks.append(f"{self._path.name} is not what it was when this was asked for: its content changed")

    def recall(self, cache: ConditioningCache, tile: int | None) -> bool:
        """Take the latents from the cache; whether they were there."""
        values = cache.load(self._key(tile), self._pipeline.accelerator.device)
        kinds = self._kinds()
        if values is None or set(values) != {*kinds, _DRAWN}:
            return False
        generator: torch.Generator = self._state.get("generator")
        generator.set_state(values.pop(_DRAWN).cpu())
        for name, value in values.items():
            self._state.set(name, value, kinds[name])
        return True

    def encode(self, cache: ConditioningCache | None, tile: int | None) -> None:
        """Run the blocks, with the VAE held and its tiles set. Raises UserError where the picture cannot be read."""
        size = (self._request.width or 0, self._request.height or 0)
        self._state.set("image", pictures.read_fitting(self._path, *size))
        self._run_blocks(self._group.blocks.values())
        for block in self._group.blocks.values():  # what only they needed may be as large as a picture
            for out in block.intermediate_outputs:
                if out.name not in self._kinds():
                    self._state.set(out.name, None, out.kwargs_type)
        if cache is not None:
            values = {name: self._state.get(name) for name in self._kinds()}
            cache.save(self._key(tile), {**values, _DRAWN: self._state.get("generator").get_state()})

    def _kinds(self) -> dict[str, str | None]:
        """What the blocks make that later ones take, with the group of inputs that diffusers files each under."""
        workflow = self._pipeline.workflow(self._request)
        taken = {
            parameter.name
            for phase in (Phase.DENOISE, Phase.DECODE)
            for block in workflow.phase(phase).blocks.values()
            for parameter in block.inputs
        }
        made = [out for block in self._group.blocks.values() for out in block.intermediate_outputs]
        return {out.name: out.kwargs_type for out in made if out.name in taken}

    def _key(self, tile: int | None) -> str:
        """A name for the latents: a hash of all that their numbers depend on."""
        accelerator, request = self._pipeline.accelerator, self._request
        parts = (
            "picture",
            self._pipeline.info.identity,
            sorted(self._formats.items()),
            self.init.sha256,
            request.width,
            request.height,
            tile,
            request.seed,
            str(accelerator.compute_dtype),
            accelerator.kind,
            accelerator.name,
            torch.__version__,
            torch.get_num_threads() if accelerator.device.type == "cpu" else 0,
            version("diffusers"),
            version("pillow"),
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()
