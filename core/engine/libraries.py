"""How torch and its companions behave inside the engine: considerate threads, no progress bars, no network."""

from __future__ import annotations

import os

from core import folders


def prepare() -> None:
    """Call once, before torch, diffusers or transformers is imported: all read these variables at import."""
    # OpenMP's threads spin while they wait for each other. On a machine that does anything else, the spinning thread
    # keeps the other one off its core: a small UNet's pass took 1.97 s beside one busy process, and 0.009 s waiting
    # passively (two cores, median of 3; 0.009 s against 0.008 s with nothing else running).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # MIOpen's exhaustive search for kernels takes minutes at each new size; which kernels it takes decides pixels, so
    # this holds for the window and the command line alike.
    os.environ.setdefault("MIOPEN_FIND_MODE", "FAST")
    # Without it torch for ROCm has flash and memory-efficient attention on few cards; plain attention holds a matrix
    # of N x N (unslothai/unsloth pull request 8821; hardware profiles count on the kernels that it opens).
    os.environ.setdefault("TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL", "1")
    # What Triton compiled lies with everything else that can be made again.
    os.environ.setdefault("TRITON_CACHE_DIR", str(folders.cache() / "triton"))
    # Models are folders on this machine; nothing here may wait for a hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    # the loop logs every exception that passes through it, a cancelled run's too; the scheduler reports them once
    diffusers_logging.get_logger("diffusers.modular_pipelines.modular_pipeline").setLevel("CRITICAL")
