"""`residency bench streaming`: what it prints, what bounds it, and numbers that make no sense."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cli import main
from core.planning.passes import bound_seconds, slots_worth, steady_seconds


def bench(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, object]:
    small = ["--block-mb", "1", "--compute-ms", "2", "--passes", "2"]
    assert main(["bench", "streaming", *small, *options, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return dict(json.loads(lines[0]))


@pytest.mark.parametrize(
    "options",
    [
        ["--blocks", "5"],
        ["--blocks", "5", "--resident", "2", "--sizes", "mixed"],
        ["--blocks", "4", "--resident", "4"],
        ["--blocks", "1", "--slots", "1", "--compute-ms", "0"],
    ],
)
def test_it_measures_what_it_says(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    told = bench(capsys, *options)
    assert told["seconds_per_pass"] >= told["bound_seconds"] * 0.99  # type: ignore[operator]
    assert told["ratio"] == pytest.approx(told["seconds_per_pass"] / told["bound_seconds"])  # type: ignore[operator]
    sizes, resident = told["block_bytes"], told["resident_blocks"]
    assert told["checked_blocks"] == len(sizes)  # type: ignore[arg-type]
    held = sum(sizes) - told["streamed_bytes"] + told["slots"] * max(sizes)  # type: ignore[operator,arg-type,type-var]
    # CUDA's allocator rounds large buffers up to 2 MiB and takes 20 MiB for those below 10
    assert held <= told["peak_device_bytes"] <= held + (60 << 20)  # type: ignore[operator]
    assert (resident == len(sizes)) == (told["slots"] == 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--blocks", "0"], "--blocks must be"),
        (["--block-mb", "-1"], "--block-mb must be"),
        (["--resident", "99"], "--resident must be"),
        (["--passes", "0"], "--passes must be"),
        (["--slots", "0"], "--slots must be"),
        (["--compute-ms", "-5"], "--compute-ms must be"),
        (["--link", "fast"], "not a size"),
    ],
)
def test_numbers_that_make_no_sense(capsys: pytest.CaptureFixture[str], options: list[str], sentence: str) -> None:
    try:
        code = main(["bench", "streaming", *options])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert told.out == ""


BLOCKS = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.5]), st.floats(0, 4)), min_size=1, max_size=12)


@given(BLOCKS, st.integers(1, 4))
def test_a_pass_is_never_below_its_bound_and_more_slots_never_hurt(
    blocks: list[tuple[float, float]], slots: int
) -> None:
    copies, kernels = [copy for copy, _ in blocks], [kernel for _, kernel in blocks]
    seconds = steady_seconds(copies, kernels, slots)
    assert seconds >= bound_seconds(copies, kernels) - 1e-9
    assert steady_seconds(copies, kernels, slots + 1) <= seconds + 1e-9
    assert (slots_worth(copies, kernels) == 0) == (not any(copies))


def test_slots_of_known_cases() -> None:
    """Figures of an ideal first-in-first-out simulation with S/B = C, 12 uniform blocks of which 2 are resident."""
    copies = [0.0, *[1.2] * 5] * 2
    kernels = [1.0] * 12
    assert steady_seconds(copies, kernels, 2) / 12 == pytest.approx(1.1, abs=0.03)
    assert steady_seconds(copies, kernels, 3) / 12 == pytest.approx(1.0, abs=0.01)
    assert slots_worth(copies, kernels) == 3
    assert slots_worth([1.0] * 6, [0.1] * 6) == 2
    assert slots_worth([0.0] * 6, [1.0] * 6) == 0
