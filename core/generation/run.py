"""One request on its way through the phases: its pipeline state, and the blocks that encode and decode.

core.generation.denoise runs the blocks between them, for one request or for several.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks, PipelineState
from PIL import Image

from core.generation import adapters, conditioning, stock
from core.generation.adapters import Attached
from core.generation.apart import for_one_run
from core.generation.guidance import guidance
from core.generation.interrupt import Interrupt
from core.generation.pipeline import Pipeline
from core.generation.preview import Previewer, clean_estimate
from core.generation.starting import StartingPicture
from core.generation.tiling import set_tiles
from core.messages import Phase, Request, UserError
from core.models.starting import made_by


class Run:
    """A request and its pipeline state.

    Call `encode`, `encode_picture` where it starts from one, denoise and `decode`, each with its networks held.
    """

    def __init__(
        self,
        request: Request,
        pipeline: Pipeline,
        previewer: Previewer,
        interrupt: Interrupt,
        formats: Mapping[str, str],
        attached: Sequence[Attached] = (),
    ) -> None:
        """Prepare the state of a resolved request; `guidance` is what will be in force, None where nothing guides.

        `formats` are those that each component is held in, `attached` the LoRAs that are beside them.
        """
        self.request = request
        self.reasons: list[str] = adapters.remarks(attached, pipeline.info.name)
        self.loras = tuple(one.asked for one in attached)
        self._pipeline = pipeline
        self._previewer = previewer
        self._interrupt = interrupt
        self.workflow = pipeline.workflow(request)
        self.steps = made_by(request, pipeline.info.family)
        self.init = request.init
        self._phases = {group.phase: group for group in self.workflow.phases}
        guided = guidance(pipeline.info.family, pipeline.default_guider, request.guidance, request.negative_prompt)
        self.components = for_one_run(pipeline.modular, guided.guider, everywhere=request.guidance is not None)
        self.state = self._initial_state(guided.negative_prompt)
        self.guidance = guided.scale if guided.guider is not None else self._scale_of_transformer()
        encoders = {name: formats[name] for name in self._phases[Phase.ENCODE].networks}
        beside = adapters.encoding(attached, pipeline)
        self._formats = dict(formats)
        self._picture: StartingPicture | None = None
        self._encoding = conditioning.key(
            pipeline.info, request, pipeline.accelerator, guided.conditions, encoders, beside
        )
        self._note_unread_words()

    def _initial_state(self, negative_prompt: str | None) -> PipelineState:
        request, known = self.request, self.workflow.input_names
        # The noise comes from the host's generator whatever the device: the same seed means the same picture.
        inputs: dict[str, Any] = {
            "prompt": request.prompt,
            "height": request.height,
            "width": request.width,
            "num_inference_steps": request.steps,
            "generator": torch.Generator("cpu").manual_seed(request.seed),
            "output_type": "pil",
        }
        clip = self._pipeline.info.clip
        if clip is not None:
            inputs |= {"num_frames": request.frames, "frame_rate": clip.fps}
        if "negative_prompt" in known:
            inputs["negative_prompt"] = negative_prompt
        elif negative_prompt:
            self.reasons.append(f"{self._pipeline.info.name} takes no negative prompt; it was not used")
        if request.init is not None:
            inputs["strength"] = request.init.strength
        if request.guidance is not None and "guidance_scale" in known:
            inputs["guidance_scale"] = request.guidance
        if self._pipeline.info.defaults.max_sequence_length and "max_sequence_length" in known:
            inputs["max_sequence_length"] = self._pipeline.info.defaults.max_sequence_length
        state = PipelineState()
        for parameter in self.workflow.inputs:
            if parameter.name:
                state.set(parameter.name, inputs.get(parameter.name, parameter.default), parameter.kwargs_type)
        return state

    def _scale_of_transformer(self) -> float | None:
        """The guidance that goes into the transformer as a number, where it was trained to take one."""
        if "guidance_scale" not in self.workflow.input_names:
            return None
        transformer = self._pipeline.skeletons.get("transformer")
        takes_one = getattr(getattr(transformer, "config", None), "guidance_embeds", False)
        return float(self.state.get("guidance_scale")) if takes_one else None

    def _note_unread_words(self) -> None:
        """Say so when the prompt is longer than every text encoder reads."""
        limits = []
        for name, tokenizer in self._pipeline.tokenizers.items():
            # CLIP's length is its own; the others are padded or cut to what the pipeline asks for
            own = tokenizer.model_max_length
            limit = own if "CLIP" in type(tokenizer).__name__ else self.state.get("max_sequence_length") or own
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
            self.state.set(name, value, kinds[name])
        stock.fill_unasked(self.workflow.loop, self.state)
        return True

    def encode(self, cache: conditioning.ConditioningCache | None) -> float:
        """Run the text encoders and keep what they made, if there is a cache to keep it in.

        Returns:
            Seconds that they took, the keeping not counted.
        """
        begin = time.monotonic()
        self.run_blocks(self._phases[Phase.ENCODE].blocks.values())
        self._pipeline.accelerator.synchronize()
        seconds = time.monotonic() - begin
        if cache is not None:
            cache.save(self._encoding, {name: self.state.get(name) for name in self._encoding_kinds()})
        stock.fill_unasked(self.workflow.loop, self.state)
        return seconds

    def recall_picture(self, cache: conditioning.ConditioningCache, tile: int | None) -> bool:
        """Take the latents of the picture that it starts from out of the cache; True when they were there.

        `tile` is the edge of a tile in latent positions that they would be encoded with; None is whole.

        Raises:
            UserError: the picture is not there any more.
        """
        return self._starting().recall(cache, tile)

    def encode_picture(self, cache: conditioning.ConditioningCache | None, tile: int | None = None) -> None:
        """Run the VAE's encoder on the picture that it starts from. `tile` is as in `decode`.

        Raises:
            UserError: the picture is not there any more, or cannot be read.
        """
        self._set_tiles(Phase.IMAGE_ENCODE, tile)
        self._starting().encode(cache, tile)

    def _starting(self) -> StartingPicture:
        if self._picture is None:
            group = self._phases[Phase.IMAGE_ENCODE]
            self._picture = StartingPicture(
                self.request, self._pipeline, group, self._formats, self.state, self.run_blocks
            )
            self.init = self._picture.init
            self.reasons += self._picture.remarks
        return self._picture

    def decode(self, tile: int | None = None, *, learn: bool = True) -> list[Image.Image]:
        """Run the VAE's decoder and return the frames, one of a still; with `learn`, previews take their colours there.

        `tile` is the edge of a tile in latent positions; None decodes whole.
        """
        self._set_tiles(Phase.DECODE, tile)
        latents = self.state.get("latents")
        self.run_blocks(self._phases[Phase.DECODE].blocks.values())
        images, videos = self.state.get("images"), self.state.get("videos")
        made = images[:1] if images else videos[0] if videos else []
        if not made:
            raise UserError(f"{self._pipeline.info.name} makes neither pictures nor video, which this version shows.")
        frames = [frame.convert("RGB") for frame in made]
        if learn and isinstance(latents, torch.Tensor) and latents.ndim >= 4:
            self._previewer.fit(latents, frames[0], keep=not self.request.draft)
        return frames

    # ---------------------------------------------------------------------------------------------------------------

    def _set_tiles(self, phase: Phase, tile: int | None) -> None:
        for name in self._phases[phase].networks:
            set_tiles(getattr(self._pipeline.modular, name), tile)

    def run_blocks(self, blocks: Iterable[ModularPipelineBlocks]) -> None:
        """Run blocks of the library one after the other."""
        with torch.no_grad():
            for block in blocks:
                self._interrupt.check()
                block(self.components, self.state)

    def _encoding_kinds(self) -> dict[str, str | None]:
        """The names that the encode blocks give, with the group of inputs that diffusers files each under."""
        group = self._phases[Phase.ENCODE]
        return {out.name: out.kwargs_type for block in group.blocks.values() for out in block.intermediate_outputs}

    def paint(self, before: torch.Tensor, after: torch.Tensor, step: int) -> tuple[int, int, bytes]:
        """A preview from the latents around a step, as (width, height, RGB bytes)."""
        first = getattr(self.components.scheduler, "begin_index", None) or 0  # what starts from a picture begins later
        clean = clean_estimate(self.components.scheduler, before, after, first + step)
        # some families denoise packed tokens; the blocks behind the loop know how to lay them out as an image
        state = PipelineState(values={**self.state.values, "latents": clean})
        blocks = list(self._phases[Phase.DENOISE].blocks.values())
        for block in blocks[blocks.index(self.workflow.loop) + 1 :]:
            block(self.components, state)
        return self._previewer.paint(state.get("latents"))

    def check(self) -> None:
        """Raise Interrupted if the run should stop."""
        self._interrupt.check()
