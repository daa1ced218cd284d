"""Encodes the prompts of waiting jobs while the text encoders are on the device, so that these cross the link once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from core.generation.adapters import Attached
from core.generation.conditioning import ConditioningCache
from core.generation.interrupt import Interrupt, Interrupted
from core.generation.run import Run
from core.messages import Request
from core.models import catalogue
from core.models.check import resolve
from core.scheduler.loaded import LoadedModel


def encode_ahead(
    waiting: Sequence[Request],
    model: LoadedModel,
    formats: Mapping[str, str],
    cache: ConditioningCache,
    interrupt: Interrupt,
    seconds: float,
    attached: Sequence[Attached] = (),
) -> int:
    """Put encodings of waiting requests of this model into the cache, for at most so many seconds.

    The encoders must be held, in these formats, with the LoRAs of `attached`, which the requests must ask for, too.
    Prompts are encoded one at a time: a batch would give other numbers.

    Returns:
        How many were encoded.

    Raises:
        Interrupted: whoever waits for the first picture does not want it any more.
    """
    end, done = time.monotonic() + seconds, 0
    for asked in waiting:
        if time.monotonic() >= end:
            break
        try:
            if not asked.how.cache:
                continue
            info = catalogue.find(asked.model)
            if info.identity != model.identity:
                continue
            run = Run(resolve(asked, info), model.pipeline, model.previewer, interrupt, formats, attached)
            if not run.recall_encoding(cache):
                run.encode(cache)
                done += 1
        except (Interrupted, torch.OutOfMemoryError):
            raise
        except Exception:  # the request will meet it again in its own turn, and say so
            continue
    return done
