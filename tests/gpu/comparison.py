"""What the rows of the benchmark say together: bounds, ratios, and a table."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tests.gpu.contenders import OURS, PEERS, RESIDENT
from tests.gpu.passes import Row

_RING = "residency-ring"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One network under one budget. Seconds of a pass; None where it could not be measured.

    `bound` is max(C, S/B): C with everything resident, S what ours streams, B from pinned memory in the same process.
    `ratio` is ours over it, `lead` the fastest peer over ours. `same` tells whether our output (with pinned slabs and
    with the ring) has the bits of the resident pass.
    """

    model: str
    budget_bytes: int
    streamed_bytes: int | None
    compute: float | None
    transfer: float | None
    bound: float | None
    ours: float | None
    ratio: float | None
    ring: float | None
    peers: dict[str, float | None]
    best_peer: str
    lead: float | None
    same: bool | None


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """All networks and budgets that ours was tried with, in the order of the rows."""
    by_key = {(row.model, row.contender, row.budget_bytes): row for row in rows}
    result = []
    for row in rows:
        if row.contender != OURS or row.budget_bytes is None:
            continue
        resident = by_key.get((row.model, RESIDENT, None))
        ring = by_key.get((row.model, _RING, row.budget_bytes))
        compute = resident.pass_seconds if resident is not None else None
        transfer = None
        if row.streamed_bytes is not None and row.link_rate is not None:
            transfer = row.streamed_bytes / row.link_rate
        bound = max(compute, transfer) if compute is not None and transfer is not None else None
        others = {name: by_key.get((row.model, name, row.budget_bytes)) for name in PEERS}
        peers = {name: other.pass_seconds for name, other in others.items() if other is not None}
        times = {name: seconds for name, seconds in peers.items() if seconds is not None}
        best = min(times, key=lambda name: times[name], default="")
        tried = [one.digest for one in (row, ring) if one is not None and one.digest]
        same = all(one == resident.digest for one in tried) if tried and resident and resident.digest else None
        result.append(
            Comparison(
                model=row.model,
                budget_bytes=row.budget_bytes,
                streamed_bytes=row.streamed_bytes,
                compute=compute,
                transfer=transfer,
                bound=bound,
                ours=row.pass_seconds,
                ratio=row.pass_seconds / bound if row.pass_seconds is not None and bound else None,
                ring=ring.pass_seconds if ring is not None else None,
                peers=peers,
                best_peer=best,
                lead=times[best] / row.pass_seconds if best and row.pass_seconds else None,
                same=same,
            )
        )
    return result


def table(rows: Sequence[Row]) -> str:
    """The comparison in Markdown, and below it what failed and why."""
    head = ["network", "budget", "streamed", "C", "S/B", "bound", "ours", "ours / bound", "with a ring", *PEERS]
    head += ["best peer / ours", "same bits"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for one in compare(rows):
        cells = [
            one.model,
            f"{one.budget_bytes / 1e9:g} GB",
            "–" if one.streamed_bytes is None else f"{one.streamed_bytes / 1e9:.1f} GB",
            *map(_seconds, (one.compute, one.transfer, one.bound, one.ours)),
            _ratio(one.ratio),
            _seconds(one.ring),
            *(_seconds(one.peers.get(name)) for name in PEERS),
            _ratio(one.lead),
            {True: "yes", False: "NO", None: "–"}[one.same],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failed = [row for row in rows if row.error]
    if failed:
        lines += ["", "Not measured:", ""]
        lines += [f"- {row.model}, {row.contender}, {_budget(row)}: {row.error}" for row in failed]
    odd = [row for row in rows if not row.error and not (row.finite and row.repeatable and not row.retries)]
    if odd:
        lines += ["", "To be read with care (output not finite, not the same twice, or memory short):", ""]
        lines += [
            f"- {row.model}, {row.contender}, {_budget(row)}: finite {row.finite}, repeatable {row.repeatable}, "
            f"allocator retries {row.retries}"
            for row in odd
        ]
    return "\n".join(lines) + "\n"


def _budget(row: Row) -> str:
    return "no limit" if row.budget_bytes is None else f"{row.budget_bytes / 1e9:g} GB"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f} s"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
