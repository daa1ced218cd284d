"""Makes one component of a model ready to be held in a format: its slabs in the files, or its weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from core.generation.layers import modulation_layers
from core.generation.packing import Tick, packed_file, packed_formats, packed_sources, with_aliases
from core.generation.skeletons import from_folder
from core.generation.sources import Files, known, packed_in_files
from core.generation.weights import by_name, filled, in_files, in_memory, packed
from core.hardware.interface import Accelerator
from core.messages import ModelFileError
from core.models.info import ComponentInfo, ModelInfo
from core.models.stored import Stored
from core.precision.dtypes import component_dtype
from core.residency.wanted import Opened


@dataclass(frozen=True)
class Opening:
    """One component of a model. `spec` is its ComponentSpec in the pipeline; `denoiser` says that it denoises."""

    info: ModelInfo
    component: ComponentInfo
    spec: Any
    accelerator: Accelerator
    denoiser: bool

    @property
    def _file(self) -> Path | None:
        return self.info.file_of(self.component.name)

    def opened(self, wanted: str, tick: Tick, *, fold: bool) -> Opened:
        """The component in a format.

        Where weights must cross a link they stay in their files until they are needed, if the files hold each tensor
        under a name that is known; else the library reads them into host memory (or, where host and device share
        it, onto the device). What the files have in the format already is held as it lies there, anything else is
        packed once, which `tick` is told of. With `fold`, modulation is kept apart, to be computed before the network
        runs.

        Raises:
            ModelFileError: the files do not hold what the component's config asks for.
            UserError: there is no room on the disk for packed weights.
        """
        skeleton = from_folder(self.spec.type_hint, self.info.path / self.component.name)
        dtype = component_dtype(self.accelerator.compute_dtype, getattr(skeleton, "config", None))
        if not self.accelerator.has_own_memory:
            return Opened(self._whole(skeleton, dtype).to(self.accelerator.device), wanted)  # there is no later copy
        folded = modulation_layers(skeleton, self.component.class_name) if fold else []
        slabs = in_files(skeleton, self.component, dtype, folded)
        stored: dict[str, Stored] = {}
        host_bytes = 0
        if slabs is not None:
            stored = with_aliases(by_name(skeleton, self.component), slabs[0])
        elif self._file is not None:
            self._lacking(skeleton)
        else:
            skeleton = self._read(skeleton, dtype)
            slabs = in_memory(skeleton, folded)
            host_bytes = slabs[0].size + slabs[0].folded_bytes
        formats = packed_formats(skeleton, self.component, wanted, stored, denoiser=self.denoiser)
        if not formats:
            return Opened(skeleton, wanted, slabs, host_bytes=host_bytes)
        formats = with_aliases(formats, slabs[0])
        sources, factors = packed_in_files(formats, stored, Files())
        others = {name: format_ for name, format_ in formats.items() if name not in sources}
        if others:
            file = packed_file(self.info.fingerprint, self.component.name, others, slabs, tick)
            found, scales = packed_sources(file)
            sources |= with_aliases(found, slabs[0])
            factors |= with_aliases(scales, slabs[0])
        slabs, scratch = packed(skeleton, slabs, sources, formats, factors)
        return Opened(skeleton, wanted, slabs, scratch, host_bytes)

    def _whole(self, skeleton: nn.Module, dtype: torch.dtype) -> nn.Module:
        """All of it in host memory, in the dtype that is computed with."""
        if self._file is None and not _in_f8(self.component.types):
            return self._read(skeleton, dtype)
        slabs = in_files(skeleton, self.component, dtype)
        if slabs is not None:
            return filled(skeleton, slabs)
        if self._file is not None:
            self._lacking(skeleton)
        return self._read(skeleton, dtype)

    def _lacking(self, skeleton: nn.Module) -> NoReturn:
        """Say what a file for a whole model does not have of a component that its config asks for."""
        name, file = self.component.name, self._file
        stored, wanted = by_name(skeleton, self.component), skeleton.state_dict()
        for key, tensor in stored.items():
            if not known(tensor.type):
                raise ModelFileError(
                    f"{file}: tensor {key} of the {name} is stored as {tensor.type}, which this version cannot decode; "
                    "get the model in another format."
                )
            if key in wanted and tuple(wanted[key].shape) != tensor.shape:
                raise ModelFileError(
                    f"{file}: tensor {key} of the {name} is {list(tensor.shape)}, but its config asks for "
                    f"{list(wanted[key].shape)}; convert the model again."
                )
        lost = next((key for key in wanted if key not in stored), "some tensor")
        raise ModelFileError(f"{file} lacks the tensor {lost} of its {name}; convert the model again.")

    def _read(self, skeleton: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Let the library read a component's weights into host memory."""
        folder = self.info.path / self.component.name
        for tensor in by_name(skeleton, self.component).values():
            if tensor.scale is not None:
                raise ModelFileError(
                    f"{tensor.file}: {tensor.name} is in {tensor.type} with factors, and not all tensors have the "
                    "names and shapes that its config asks for; get the model in BF16."
                )
        try:
            module = self.spec.load(dtype=dtype, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ModelFileError(
                f"The {self.component.name} of {self.info.name} could not be read from {folder} "
                f"({first_line(error)}); download the model again."
            ) from error
        missing = [key for key, tensor in module.named_parameters() if tensor.is_meta]
        if missing:
            raise ModelFileError(f"{folder} lacks the tensor {missing[0]}; download the model again.")
        ready: nn.Module = module.eval().requires_grad_(False)
        return ready


def first_line(error: BaseException) -> str:
    """What a library says, short enough for a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _in_f8(types: Mapping[str, int]) -> bool:
    return any(name.startswith("F8_") for name in types)
