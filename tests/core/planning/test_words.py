"""A plan in words and letters: no seconds that read oddly, no columns that break, no letter for two things."""

from __future__ import annotations

import re

import pytest

from core import cli
from core.models import profile as models
from core.planning.explain import seconds


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0 s"), (0.0001, "less than 1 ms"), (0.004, "4 ms"), (0.0099, "10 ms"), (0.35, "0.35 s"),
        (0.999, "1.0 s"), (1.04, "1.0 s"), (19.96, "20 s"), (119.4, "119 s"), (119.7, "2 min 0 s"),
        (599.8, "10 min 0 s"), (3599.6, "60 min 0 s"), (7199.7, "2 h 0 min"), (18_725.0, "5 h 12 min"),
    ],
)  # fmt: skip
def test_seconds_for_people(value: float, words: str) -> None:
    assert seconds(value) == words


def printed(capsys: pytest.CaptureFixture[str], command: str, model: str, *words: str) -> list[str]:
    assert cli.main([command, "--model", model, "--gpu", "rtx-3060", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_long_labels_keep_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "plan", "ltx2")
    labels = [phase.label for phase in models.load("ltx2").phases]
    assert max(map(len, labels)) > 14
    head = next(number for number, line in enumerate(lines) if line.startswith("phase "))
    table = lines[head : head + 1 + len(labels)]
    assert len({len(line) for line in table}) == 1
    assert all(re.match(rf"{label}  +\S", line) for label, line in zip(labels, table[1:], strict=True))
    legend = next(number for number, line in enumerate(lines) if " a activations " in line)
    drawn = lines[legend - len(labels) : legend]
    ends = [re.match(rf"{label} +(\S+) +[\d.]+ GB  ", line) for label, line in zip(labels, drawn, strict=True)]
    assert all(ends)
    assert len({end.span() for end in ends if end}) == len({end.start(1) for end in ends if end}) == 1
    assert {len(end[1]) for end in ends if end} == {60}


@pytest.mark.parametrize("model", ["ltx2", "ace-step-1.5-turbo", "wan22-a14b", "stable-audio-open"])
def test_no_letter_stands_for_two_things(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (legend,) = (line for line in printed(capsys, "plan", model) if re.search(r" a activations ", line))
    letters = re.findall(r"(?:^| {2})([A-Za-z0-9]) \w+(?=  )", legend)
    assert len(letters) > 3
    assert len(set(letters)) == len(letters)


def test_sounds_have_seconds_and_no_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "plan", "ace-step-1.5-turbo")
    assert lines[0].endswith("60 s of sound, 8 steps")
    assert not any("1x1" in line for line in lines)


def test_nothing_reads_the_same_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("flux-schnell", "ltx-video", "qwen-image", "sd35-large"):
        for line in printed(capsys, "plan", model):
            for one, other in re.findall(r"([\d.]+ s) instead of ([\d.]+ s)", line):
                assert one != other
            assert "only less than" not in line


def test_where_there_is_no_link_nothing_can_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--accelerator", "cpu", "--slots", "2"]) == 2
    assert "nothing to stream over" in capsys.readouterr().err
