"""How many calls a step makes: whether a family's stock pipeline guides, by scale and negative prompt. No torch.

core.generation.guidance sets the guiders up by the same rules, so a plan counts the calls that a run makes.
"""

from __future__ import annotations

# In these families a scale of 0 means none: cond + scale * (cond - uncond). Everywhere else 1 does:
# uncond + scale * (cond - uncond). Their guider is off unless a scale is asked for, because the models are distilled.
FROM_ZERO = ("ZImagePipeline",)
# These guide only when there is a negative prompt (QwenImagePipeline: true_cfg_scale without one has no effect).
ONLY_WITH_NEGATIVE = ("QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline")


def guides(family: str, scale: float | None, *, negative: bool) -> bool:
    """Whether a step makes a second, unguided call.

    Args:
        family: the class of the stock pipeline, of a model whose denoiser can be guided so.
        scale: classifier-free guidance; None where nothing is known of it, which counts as none.
        negative: whether there is a negative prompt.
    """
    if scale is None or (family in ONLY_WITH_NEGATIVE and not negative):
        return False
    return scale > (0.0 if family in FROM_ZERO else 1.0)
