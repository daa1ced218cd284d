"""The simulator against published figures of other programs: one row of each card fitted, the others predicted.

    python -m tests.bench.bench_published

How those programs hold models is simulated as their own texts and sources describe it; what is not known there is
written beside each table (published_sd_cpp.py, published_torch.py). Misses stay in.
Writes tests/bench/results/published.json.
"""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile
from tests.bench.published import Row, Table
from tests.bench.published_sd_cpp import SD_CPP, VAE, ours_on_rtx_3060
from tests.bench.published_torch import GGUF, SGLANG, STREAMFORGE, STUDIO
from tests.bench.report import load_average, write

TABLES = (SD_CPP, STREAMFORGE, *SGLANG, GGUF, STUDIO, VAE)
TOLERANCE = 0.2


class Simulated(msgspec.Struct, frozen=True):
    """A row beside what was simulated of it; `ratio` is of the simulated figure to the published one."""

    row: str
    unit: str
    role: str
    published: float
    simulated: float
    ratio: float
    within_20_percent: bool


class Result(msgspec.Struct, frozen=True):
    """A table with the value of the field that was fitted; `order_kept` speaks of seconds."""

    title: str
    source: str
    fitted: str
    value: float | None
    rows: list[Simulated]
    order_kept: bool
    left_out: str


def main() -> None:
    """Fit, predict and write the result."""
    load = load_average()
    results = [simulated(table) for table in TABLES]
    ours = ours_on_rtx_3060(_fitted(SD_CPP))
    write("published", {"tables": msgspec.to_builtins(results), "our_plan_bf16_rtx_3060_seconds": ours}, load)
    for result in results:
        print(f"{result.title}: {result.fitted} {result.value}, order kept: {result.order_kept}")
        for row in result.rows:
            print(f"  {row.row:58} {row.published:9} {row.simulated:9} {row.ratio}")


def simulated(table: Table) -> Result:
    """One row fitted, the others predicted."""
    card = _fitted(table)
    rows = [_row(row, card) for row in table.rows]
    return Result(
        title=table.title,
        source=table.source,
        fitted=table.field,
        value=float(f"{getattr(card, table.field):.3g}") if table.field else None,
        rows=rows,
        order_kept=_order_kept([row for row in rows if row.unit == "s"]),
        left_out=table.left_out,
    )


def _row(row: Row, card: HardwareProfile) -> Simulated:
    figure = row.simulate(card)
    ratio = round(figure / row.published, 3)
    return Simulated(
        row=row.name,
        unit=row.unit,
        role=row.role,
        published=row.published,
        simulated=float(f"{figure:.4g}"),
        ratio=ratio,
        within_20_percent=abs(ratio - 1) <= TOLERANCE,
    )


def _order_kept(rows: list[Simulated]) -> bool:
    """Whether of each two rows the one that is published as faster is simulated as faster."""
    return all(a.simulated < b.simulated for a in rows for b in rows if a.published < b.published)


def _fitted(table: Table) -> HardwareProfile:
    """The card with the one field that makes the fitted row come out; more of it is less time."""
    row = next((row for row in table.rows if row.role == "fitted"), None)
    if row is None:
        return table.card
    low, high = table.between
    for _ in range(40):  # bisection
        middle = (low * high) ** 0.5
        card = msgspec.structs.replace(table.card, **{table.field: middle})
        low, high = (middle, high) if row.simulate(card) > row.published else (low, middle)
    return msgspec.structs.replace(table.card, **{table.field: (low * high) ** 0.5})


if __name__ == "__main__":
    main()
