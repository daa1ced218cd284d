"""One request on its way through the phases: each method runs the blocks of one phase on one pipeline state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import (
    BlockState,
    ModularPipelineBlocks,
    PipelineState,
)
from PIL import Image

from core.generation import conditioning
from core.generation.foresight import fold
from core.generation.guidance import guidance
from core.generation.interrupt import Interrupt
from core.generation.pipeline import Pipeline
from core.generation.preview import Previewer, clean_estimate
from core.generation.tiling import set_tiles
from core.messages import Phase, Request, UserError
from core.residency.folding import FoldingError

OnStep = Callable[[int, Callable[[], tuple[int, int, bytes]]], None]


class Run:
    """A request and its pipeline state. Call `encode`, `denoise` and `decode` in order, each with its networks held."""

    def __init__(
        self,
        request: Request,
        pipeline: Pipeline,
        previewer: Previewer,
        interrupt: Interrupt,
        formats: Mapping[str, str],
    ) -> None:
        """Prepare the state of a resolved request; `guidance` is what will be in force, None where nothing guides.

        `formats` are those that each component is held in.
        """
        self.request = request
        self.reasons: list[str] = []
        self._pipeline = pipeline
        self._previewer = previewer
        self._interrupt = interrupt
        self._phases = {group.phase: group for group in pipeline.phases}
        guided = guidance(pipeline.info.family, pipeline.default_guider, request.guidance, request.negative_prompt)
        self._guider = guided.guider
        self._state = self._initial_state(guided.negative_prompt)
        self.guidance = guided.scale if guided.guider is not None else self._scale_of_transformer()
        encoders = {name: formats[name] for name in self._phases[Phase.ENCODE].networks}
        self._encoding = conditioning.key(pipeline.info, request, pipeline.accelerator, guided.conditions, encoders)
        self._note_unread_words()

    def _initial_state(self, negative_prompt: str | None) -> PipelineState:
        request, known = self.request, self._pipeline.input_names
        # The noise comes from the host's generator whatever the device: the same seed means the same picture.
        inputs: dict[str, Any] = {
            "prompt": request.prompt,
            "height": request.height,
            "width": request.width,
            "num_inference_steps": request.steps,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
            "output_type": "pil",
        }
        if "negative_prompt" in known:
            inputs["negative_prompt"] = negative_prompt
        elif negative_prompt:
            self.reasons.append(f"{self._pipeline.info.name} takes no negative prompt; it was not used")
        if request.guidance is not None and "guidance_scale" in known:
            inputs["guidance_scale"] = request.guidance
        if self._pipeline.info.defaults.max_sequence_length and "max_sequence_length" in known:
            inputs["max_sequence_length"] = self._pipeline.info.defaults.max_sequence_length
        state = PipelineState()
        for parameter in self._pipeline.modular._blocks.inputs:
            if parameter.name:
                state.set(parameter.name, inputs.get(parameter.name, parameter.default), parameter.kwargs_type)
        return state

    def _scale_of_transformer(self) -> float | None:
        """The guidance that goes into the transformer as a number, where it was trained to take one."""
        if "guidance_scale" not in self._pipeline.input_names:
            return None
        transformer = self._pipeline.skeletons.get("transformer")
        takes_one = getattr(getattr(transformer, "config", None), "guidance_embeds", False)
        return float(self._state.get("guidance_scale")) if takes_one else None

    def _note_unread_words(self) -> None:
        """Say so when the prompt is longer than every text encoder reads."""
        limits = []
        for name, tokenizer in self._pipeline.tokenizers.items():
            # CLIP's length is its own; the others are padded or cut to what the pipeline asks for
            own = tokenizer.model_max_length
            limit = own if "CLIP" in type(tokenizer).__name__ else self._state.get("max_sequence_length") or own
            tokens = len(tokenizer(self.request.prompt).input_ids)
            if tokens <= limit:
                return
            limits.append((limit, tokens, name))
        if limits:
            limit, tokens, _ = max(limits)
            self.reasons.append(f"the prompt has {tokens} tokens and the model reads {limit}: its end was not used")

    # -- phases -----------------------------------------------------------------------------------------------------

    def recall_encoding(self, cache: conditioning.ConditioningCache) -> bool:
        """Take the encoding of the prompt from the cache; True when it was there, and `encode` is not needed."""
        values = cache.load(self._encoding, self._pipeline.accelerator.device)
        kinds = self._encoding_kinds()
        if values is None or set(values) != set(kinds):
            return False
        for name, value in values.items():
            self._state.set(name, value, kinds[name])
        return True

    def encode(self, cache: conditioning.ConditioningCache | None) -> None:
        """Run the text encoders and keep what they made, if there is a cache to keep it in."""
        self._run_blocks(self._phases[Phase.ENCODE].blocks.values())
        if cache is not None:
            cache.save(self._encoding, {name: self._state.get(name) for name in self._encoding_kinds()})

    def denoise(self, on_step: OnStep) -> None:
        """Run the sampling loop. After each step `on_step(steps done, paint)` is called; paint() makes a preview.

        Raises:
            FoldingError: modulation was to be computed before the loop and could not be; begin again without it.
        """
        try:
            self._denoise(on_step)
        except FoldingError as error:  # the model is planned without it from now on
            self._pipeline.unfoldable = f"modulation stays on the device: {error}"
            raise

    def _denoise(self, on_step: OnStep) -> None:
        blocks = list(self._phases[Phase.DENOISE].blocks.values())
        loop = self._pipeline.loop
        start = blocks.index(loop)
        self._run_blocks(blocks[:start])
        with torch.no_grad():
            fold(self._pipeline, self._state, self._interrupt.check)
        watch = _Watch(self, on_step)
        loop.sub_blocks["residency_before"] = watch.before
        loop.sub_blocks["residency_after"] = watch.after
        loop.sub_blocks.move_to_end("residency_before", last=False)
        try:
            self._run_blocks(blocks[start:])
        finally:
            del loop.sub_blocks["residency_before"], loop.sub_blocks["residency_after"]

    def decode(self, tile: int | None = None, *, learn: bool = True) -> Image.Image:
        """Run the VAE's decoder and return the picture; with `learn`, previews take their colours from it.

        `tile` is the edge of a tile in latent positions; None decodes whole.
        """
        for name in self._phases[Phase.DECODE].networks:
            set_tiles(getattr(self._pipeline.modular, name), tile)
        latents = self._state.get("latents")
        self._run_blocks(self._phases[Phase.DECODE].blocks.values())
        images = self._state.get("images")
        if not images:
            raise UserError(f"{self._pipeline.info.name} makes no still pictures, which is all this version can show.")
        image: Image.Image = images[0].convert("RGB")
        if learn and isinstance(latents, torch.Tensor) and latents.ndim >= 4:
            self._previewer.fit(latents, image, keep=not self.request.draft)
        return image

    # ---------------------------------------------------------------------------------------------------------------

    def _run_blocks(self, blocks: Iterable[ModularPipelineBlocks]) -> None:
        modular = self._pipeline.modular
        if self._guider is not None:  # the pipeline is shared with the runs of other requests
            modular.guider = self._guider
        with torch.no_grad():
            for block in blocks:
                self._interrupt.check()
                block(modular, self._state)

    def _encoding_kinds(self) -> dict[str, str | None]:
        """The names that the encode blocks give, with the group of inputs that diffusers files each under."""
        group = self._phases[Phase.ENCODE]
        return {out.name: out.kwargs_type for block in group.blocks.values() for out in block.intermediate_outputs}

    def paint(self, before: torch.Tensor, after: torch.Tensor, step: int) -> tuple[int, int, bytes]:
        """A preview from the latents around a step, as (width, height, RGB bytes)."""
        clean = clean_estimate(self._pipeline.modular.scheduler, before, after, step)
        # some families denoise packed tokens; the blocks behind the loop know how to lay them out as an image
        state = PipelineState(values={**self._state.values, "latents": clean})
        blocks = list(self._phases[Phase.DENOISE].blocks.values())
        for block in blocks[blocks.index(self._pipeline.loop) + 1 :]:
            block(self._pipeline.modular, state)
        return self._previewer.paint(state.get("latents"))

    def check(self) -> None:
        """Raise Interrupted if the run should stop."""
        self._interrupt.check()


class _Watch:
    """Two blocks around the sampler's step: the latents before it, and after it."""

    def __init__(self, run: Run, on_step: OnStep) -> None:
        self._latents = torch.empty(0)

        def before(block_state: BlockState, _: int) -> None:
            self._latents = block_state.latents

        def after(block_state: BlockState, step: int) -> None:
            run.check()
            latents, earlier = block_state.latents, self._latents
            on_step(step + 1, lambda: run.paint(earlier, latents, step))

        self.before = _LoopBlock(before)
        self.after = _LoopBlock(after)


class _LoopBlock(ModularPipelineBlocks):
    """A block of ours in diffusers' denoise loop that only looks."""

    def __init__(self, look: Callable[[BlockState, int], None]) -> None:
        super().__init__()
        self._look = look

    def __call__(self, components: Any, block_state: BlockState, i: int, t: torch.Tensor) -> tuple[Any, BlockState]:
        self._look(block_state, i)
        return components, block_state
