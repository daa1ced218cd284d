"""A small plan made by hand, for tests that need to know every byte of it."""

from __future__ import annotations

from core.plans import ComponentPlan, Phase, PhasePlan, Placement, Plan

GB = 1_000_000_000


def placement(component: str, resident: int, *, streamed: int = 0, kept: int = 0) -> Placement:
    return Placement(
        component=component,
        blocks=10,
        resident_blocks=(10,),
        resident_bytes=resident,
        streamed_bytes=streamed,
        slot_bytes=GB // 10 if streamed else 0,
        kept_bytes=kept,
        compute_seconds=0.1,
        pass_seconds=0.1,
    )


def phase(name: Phase, placed: Placement, seconds: float, *, steps: int = 1, kept: int = 0) -> PhasePlan:
    return PhasePlan(
        phase=name,
        label=name.value,
        placements=(placed,),
        steps=steps,
        passes=steps,
        slots=2 if placed.streamed_bytes else 0,
        scratch_bytes=0,
        activation_bytes=GB // 2,
        tile=None,
        seconds=seconds,
        step_seconds=seconds / steps,
        load_seconds=seconds / 2,
        next_load_seconds=0.0,
        kept_bytes=kept,
        peak_bytes=placed.resident_bytes + GB // 2 + kept,
    )


def plan(model: str = "starter") -> Plan:
    """The encoder (2 GB, of which 1 GB stays), then the transformer (6 GB and 4 GB streamed), then the VAE (1 GB)."""
    return Plan(
        model=model,
        gpu="test",
        budget_bytes=10 * GB,
        components=(
            ComponentPlan(name="text_encoder", format="Q8_0", bytes=2 * GB, kept_bytes=GB, folded_bytes=0, loss=0.0),
            ComponentPlan(name="transformer", format="Q6_K", bytes=10 * GB, kept_bytes=0, folded_bytes=0, loss=1e-4),
            ComponentPlan(name="vae", format="BF16", bytes=GB, kept_bytes=GB, folded_bytes=0, loss=0.0),
        ),
        phases=(
            phase(Phase.ENCODE, placement("text_encoder", 2 * GB, kept=GB), 2.0),
            phase(Phase.DENOISE, placement("transformer", 6 * GB, streamed=4 * GB), 8.0, steps=4, kept=GB),
            phase(Phase.DECODE, placement("vae", GB, kept=GB), 1.0, kept=GB),
        ),
        pinned=True,
        total_seconds=11.0,
        next_seconds=6.0,
        expected_seconds=8.0,
        peak_bytes=int(7.5 * GB),
        link_bytes=20 * GB,
        loss=1e-4,
        reasons=("4.0 GB of the transformer stream in every pass", "the text_encoder is held as Q8_0"),
    )
