"""`residency plan` and `simulate` as scripts and people meet them: the contract's JSON, one sentence for bad input."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from core import cli
from core.hardware import kept
from core.hardware import profile as cards
from core.hardware.machine import detect
from core.models import profile as models


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The command in this process: (exit code, stdout, stderr)."""
    try:
        code = cli.main(words)
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_plan_prints_the_contract_s_object(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", "--model", "flux-schnell", "--gpu", "rx-7800-xt", "--size", "1024x1024", "--steps", "4", "--json")
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert (plan["model"], plan["gpu"]) == ("flux-schnell", "rx-7800-xt")
    keys = {"budget_bytes", "total_seconds", "next_prompt_seconds", "peak_device_bytes", "link_bytes", "quality_loss"}
    assert keys <= set(plan)
    assert set(plan["components"]) == {"text_encoder", "text_encoder_2", "transformer", "vae"}
    assert all({"format", "bytes", "reason"} <= set(component) for component in plan["components"].values())
    phase_keys = {"name", "seconds", "step_seconds", "resident_bytes", "streamed_bytes", "slots", "peak_device_bytes"}
    assert all(phase_keys <= set(phase) for phase in plan["phases"])
    assert all(phase["peak_device_bytes"] <= plan["budget_bytes"] for phase in plan["phases"])
    assert plan["alternatives"]
    assert all(alternative["why_not"] for alternative in plan["alternatives"])
    assert plan["total_seconds"] == pytest.approx(sum(phase["seconds"] for phase in plan["phases"]))


def test_plan_for_people_names_phases_formats_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "--model", "flux-schnell", "--gpu", "rx-7800-xt")
    assert code == 0
    for word in ("encode", "denoise", "decode", "transformer", "stays between prompts", "Why", "Also considered"):
        assert word in out
    assert "\x1b" not in out  # colours are for terminals


def test_simulate_adds_a_ledger_that_adds_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    words = ("simulate", "--model", "z-image-turbo", "--gpu", "rtx-3060", "--chart", str(chart), "--json")
    code, out, _ = run(capsys, *words)
    assert code == 0
    report = json.loads(out)
    total = 0
    for record in report["ledger"]:
        total += record["change"]
        assert record["resident_bytes"] == total <= report["budget_bytes"]
    assert max(record["resident_bytes"] for record in report["ledger"]) == report["peak_device_bytes"]
    svg = ElementTree.parse(chart).getroot()
    text = " ".join(element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert "budget" in text
    assert "denoise" in text
    code, out, _ = run(capsys, "simulate", "--model", "z-image-turbo", "--gpu", "rtx-3060")
    assert code == 0
    assert "ledger records" in out


def test_the_command_line_changes_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    def total(*words: str) -> dict[str, float]:
        code, out, err = run(capsys, "plan", "--model", "flux-schnell", "--json", *words)
        assert code == 0, err
        return json.loads(out)

    whole = total("--gpu", "rtx-4090")
    small = total("--gpu", "rtx-4090", "--vram", "12GB")
    assert small["budget_bytes"] < whole["budget_bytes"]
    assert small["budget_bytes"] == total("--gpu", "rtx-4090", "--vram", "12000MB")["budget_bytes"]
    formats = ("--format", "transformer=BF16", "--format", "text_encoder_2=BF16", "--ram", "128GB")
    slow = total("--gpu", "rtx-4090", "--vram", "12GB", "--link", "2GB/s", *formats)
    fast = total("--gpu", "rtx-4090", "--vram", "12GB", "--link", "50GB/s", *formats)
    assert slow["next_prompt_seconds"] > fast["next_prompt_seconds"]
    roomy = total("--gpu", "rtx-4090", "--headroom", "0GB")
    assert roomy["budget_bytes"] > whole["budget_bytes"]
    assert total("--gpu", "rtx-4090", "--encoded")["phases"][0]["skipped"]


def test_queued_prompts_go_through_streamed_blocks_together(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "flux2-dev", "--gpu", "rtx-4060", "--link", "0.5GB/s", "--ram", "64GB", "--size", "512x512")
    words += ("--steps", "10", "--encoded")
    alone, queued = report(capsys, *words), report(capsys, *words, "--queued", "9")
    assert alone["together"] == 1 < queued["together"]
    assert [phase["lockstep"] for phase in queued["phases"]] == [1, queued["together"], 1]
    assert queued["link_bytes"] < alone["link_bytes"]
    apart, one = report(capsys, *words, "--queued", "9", "--no-lockstep"), report(capsys, *words, "--no-lockstep")
    assert apart.pop("queue")["jobs"] == 9
    assert apart.pop("reasons")[:-1] == one.pop("reasons")
    assert apart == one
    code, out, _ = run(capsys, "simulate", *words, "--queued", "9", "--json")
    assert code == 0
    assert json.loads(out)["link_bytes"] == pytest.approx(queued["link_bytes"], abs=3)


def test_old_words_and_fixed_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    def total(*words: str) -> dict[str, float]:
        formats = ("--format", "transformer=Q4_K", "--format", "text_encoder_2=Q4_K", "--gpu", "rtx-4090")
        code, out, err = run(capsys, "plan", "--model", "flux-schnell", "--json", *formats, *words)
        assert code == 0, err
        return json.loads(out)

    def kept(plan: dict) -> set[str]:
        return {name for name, component in plan["components"].items() if component["kept_bytes"]}

    none, encoder, phases = (total("--offload", word) for word in ("none", "encoder", "phases"))
    assert kept(none) == set(none["components"])
    assert kept(encoder) == {"transformer", "vae"}
    assert kept(phases) == kept(total("--offload", "aggressive")) == set()
    assert none["next_prompt_seconds"] < encoder["next_prompt_seconds"] < phases["next_prompt_seconds"]
    assert none["peak_device_bytes"] > encoder["peak_device_bytes"]
    stream = total("--offload", "stream")
    assert stream["phases"][1]["streamed_bytes"] > 0.9 * stream["components"]["transformer"]["bytes"]
    some = total("--residency", "transformer=10")
    assert some["phases"][1]["streamed_bytes"] < stream["phases"][1]["streamed_bytes"]
    assert total("--residency", "transformer=resident")["phases"][1]["streamed_bytes"] == 0
    assert total("--residency", "transformer=streamed")["phases"][1]["streamed_bytes"] > 0


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    code, out, err = run(capsys, "plan", "--json", *words)
    assert code == 0, err
    return json.loads(out)


def test_the_processor_and_an_emulated_card_are_machines_too(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    cpu = report(capsys, "--accelerator", "cpu")
    assert {component["format"] for component in cpu["components"].values()} == {"F32"}
    card = msgspec.structs.replace(
        cards.load("rtx-3060"), name="measured", title=f"{cards.load('rtx-3060').title} (emulated)", vendor="emulated"
    )
    emulated = ("--accelerator", "emulated", "--gpu", "rtx-3060")
    assert report(capsys, *emulated)["gpu"] == "rtx-3060"  # as its data sheet says
    kept.folder().mkdir(parents=True)
    (kept.folder() / "a.json").write_bytes(msgspec.json.encode(kept.Kept(kept.machine_key(detect()), card)))
    (kept.folder() / "b.json").write_text("{")
    assert report(capsys, *emulated)["gpu"] == "measured"
    assert report(capsys, *emulated, "--vram", "6GB")["gpu"] == "rtx-3060"  # another card than was measured
    assert report(capsys, "--accelerator", "emulated")["gpu"] == "rx-7800-xt"


@pytest.mark.slow
def test_a_model_here_is_planned_by_its_folder(capsys: pytest.CaptureFixture[str], tiny: Callable[[str], Path]) -> None:
    folder = tiny("sdxl")
    fitted = report(capsys, "--model", str(folder), "--gpu", "rtx-3060", "--size", "64x64")
    assert set(fitted["components"]) == {"text_encoder", "text_encoder_2", "unet", "vae"}
    exact = report(capsys, "--model", str(folder), "--gpu", "rtx-3060", "--size", "64x64", "--estimate", "dryrun")
    assert "dry run at exactly this size" in " ".join(exact["reasons"])


def test_a_dry_run_replaces_the_formula(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--gpu", "rtx-3060", "--size", "176x304", "--steps", "3")
    fitted, exact = (report(capsys, *words, "--estimate", how) for how in ("formula", "dryrun"))
    pairs = list(zip(fitted["phases"], exact["phases"], strict=True))
    told = ["dry run at exactly this size" in " ".join(one["reasons"]) for one in (fitted, exact)]
    assert told == [False, True]
    segment = 20 << 20  # what the driver gives for any of the larger tensors of so small a model
    assert all(abs(one["activation_bytes"] - other["activation_bytes"]) <= 1.1 * segment for one, other in pairs)
    assert any(one["activation_bytes"] != other["activation_bytes"] for one, other in pairs)


def test_without_the_cache_the_text_is_encoded(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--gpu", "rtx-3060", "--encoded")
    assert report(capsys, *words)["phases"][0]["skipped"]
    assert not report(capsys, *words, "--no-cache")["phases"][0]["skipped"]


def test_every_card_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "--gpu", "list")
    assert code == 0
    assert "rx-7800-xt" in out
    assert len(out.splitlines()) >= 40


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--gpu", "rx-7800xt"), "did you mean"),
        (("--gpu", "abacus"), "no profile of a card called abacus"),
        (("--model", "flux-snell", "--gpu", "rtx-3060"), "did you mean flux-schnell"),
        (("--model", "flux-schnell", "--gpu", "rtx-3060", "--vram", "2GB"), "needs at least"),
        (("--model", "flux-schnell", "--gpu", "rtx-3060", "--vram", "1MB"), "Nothing is left"),
        (("--gpu", "rtx-3060", "--vram", "-5GB"), "needs a value"),
        (("--gpu", "rtx-3060", "--vram", "lots"), "is not a size such as 12GB"),
        (("--gpu", "rtx-3060", "--link", "0GB/s"), "is not a rate"),
        (("--gpu", "rtx-3060", "--steps", "0"), "0 steps are not possible"),
        (("--gpu", "rtx-3060", "--steps", "-3"), "steps are not possible"),
        (("--gpu", "rtx-3060", "--batch", "100000"), "pictures at once are not possible"),
        (("--gpu", "rtx-3060", "--frames", "0"), "frames are not possible"),
        (("--gpu", "rtx-3060", "--queued", "0"), "0 queued prompts are not possible; give 1 to 1000"),
        (("--gpu", "rtx-3060", "--queued", "many"), "is not a whole number"),
        (("--gpu", "rtx-3060", "--size", "100x128"), "is the nearest that is"),
        (("--gpu", "rtx-3060", "--size", "0x128"), "is the nearest that is"),
        (("--gpu", "rtx-3060", "--prefer", "7"), "not between 0 and 1"),
        (("--gpu", "rtx-3060", "--prefer", "nan"), "not a finite number"),
        (("--gpu", "rtx-3060", "--format", "transformer=Q9"), "no format called Q9"),
        (("--gpu", "rtx-3060", "--format", "transfromer=Q8_0"), "did you mean transformer?"),
        (("--gpu", "rtx-3060", "--format", "transformer=F32"), "held as the device computes, and that is BF16"),
        (("--gpu", "rtx-3060", "--residency", "transformer=9"), "9 blocks of the transformer cannot be resident"),
        (("--gpu", "rtx-3060", "--residency", "vae=streamed"), "no blocks that could be streamed"),
        (("--gpu", "apple-m1", "--offload", "stream"), "in the host's own memory"),
        (("--gpu", "rtx-3060", "--estimate", "guess"), "invalid choice"),
        (("--accelerator", "gpu"), "no accelerator called gpu"),
        (("--gpu", "rtx-3060", "--accelerator", "cpu"), "is no cpu device"),
        (("--gpu", "rx-7600", "--accelerator", "xpu"), "is no xpu device"),
        (
            (
                "--model",
                "./nowhere",
            ),
            "does not exist",
        ),
        (("--gpu", "rtx-3060", "--format", "motor=Q8_0"), "has no component called motor"),
        (("--gpu", "rtx-3060", "--slots", "1"), "slots are not possible"),
        (("--gpu", "rtx-3060", "--residency", "transformer=some"), "is not of the form"),
        (("--gpu", "rtx-3060", "--offload", "everything"), "invalid choice"),
        (("--model", "flux-dev", "--gpu", "rtx-3060", "--vram", "9GB", "--offload", "none"), "needs at least"),
        (("--gpu", "rtx-3060", "--tile", "1"), "A tile of 1 is not possible"),
        (("--gpu", "rtx-3060", "--chart", "/proc/nowhere/a.svg"), "does not exist"),
        (("--gpu", "rtx-3060", "--chart", "/proc"), "is a folder"),
        (("--gpu", "rtx-3060", "--chart", "model.gguf"), "does not end in .svg"),
        (("--gpu", "rtx-3060", "--model", ""), "A name is empty"),
        (("--gpu", "rtx-3060", "--link", "12Gb/s"), "counts bits"),
        (("--gpu", "rtx-3060", "--link", "10Gbps"), "counts bits"),
        (("--gpu", "rtx-3060", "--link", "1B/s"), "give 1MB/s to 2TB/s"),
        (("--gpu", "rtx-3060", "--link", "-5GB/s"), "does not begin with a minus"),
        (("--gpu", "rtx-3060", "--ram", "0"), "no machine's memory"),
        (("--gpu", "rtx-3060", "--guidance", "-5"), "makes no sense; choose from 0 to 100"),
        (("--gpu", "rtx-3060", "--guidance", "1e308"), "makes no sense; choose from 0 to 100"),
        (("--gpu", "rtx-3060", "--size", "16384x1024"), "8192 is the nearest"),
        (("--gpu", "rtx-3060", "--size", "8192x8192"), "too large; at most 8192 a side and 16 megapixels"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "simulate"])
def test_bad_input_is_one_sentence(
    command: str, words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, command, *words)
    assert code == 2
    assert out == ""
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_a_damaged_profile_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text('{"name": "x"')
    code, _, err = run(capsys, "plan", "--gpu", str(card))
    assert code == 2
    assert str(card) in err
    model = tmp_path / "model.json"
    model.write_text("[]")
    code, _, err = run(capsys, "plan", "--gpu", "rtx-3060", "--model", str(model))
    assert code == 2
    assert str(model) in err


def test_every_shipped_model_can_be_planned_on_the_reference_card(capsys: pytest.CaptureFixture[str]) -> None:
    for name in models.names():
        code, out, err = run(capsys, "plan", "--model", name, "--gpu", "rx-7800-xt", "--ram", "64GB", "--json")
        assert code == 0 or "needs at least" in err, (name, err)
        if code == 0:
            assert json.loads(out)["peak_device_bytes"] > 0


def test_names_of_absurd_length_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--gpu", "x" * 5000), ("--format", f"transformer={'x' * 5000}"), ("--steps", "y" * 5000)):
        code, _, err = run(capsys, "plan", "--gpu", "rtx-3060", *words)
        assert code == 2
        assert "..." in err
        assert len(err) < 600


def test_the_list_of_cards_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan", "simulate"):
        code, out, _ = run(capsys, command, "--gpu", "list", "--json")
        assert code == 0
        listed = {card["name"]: card for card in json.loads(out)["cards"]}
        assert set(listed) == set(cards.names())
        assert listed["rx-7800-xt"]["memory_bytes"] == 16 * 2**30


@pytest.mark.usefixtures("home")
def test_a_damaged_calibration_is_named_and_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    code, healthy, err = run(capsys, "plan", "--accelerator", "cpu", "--json")
    assert (code, err) == (0, "")
    kept.folder().mkdir(parents=True)
    broken = kept.folder() / "a.json"
    broken.write_text("{broken")
    code, out, err = run(capsys, "plan", "--accelerator", "cpu", "--json")
    assert code == 0
    assert out == healthy
    assert str(broken) in err
    assert "is ignored" in err
    assert len(err.splitlines()) == 1
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 2
    assert any(str(broken) in problem for problem in json.loads(out)["problems"])
    broken.unlink()
    code, _, err = run(capsys, "plan", "--accelerator", "cpu", "--json")
    assert err == ""


def test_a_plan_for_the_processor_is_what_the_engine_makes_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "--accelerator", "cpu", "--json")
    assert code == 0
    planned = json.loads(out)
    assert all(component["folded_bytes"] == 0 for component in planned["components"].values())
    assert all(phase["streamed_bytes"] == 0 for phase in planned["phases"])
    code, out, err = run(capsys, "plan", "--accelerator", "cpu", "--format", "transformer=Q4_K")
    assert (code, out) == (2, "")
    assert "cannot hold packed weights such as Q4_K" in err


def test_a_step_means_the_same_in_the_simulation(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "flux-schnell", "--gpu", "rx-7800-xt", "--steps", "4", "--json")
    planned, simulated = (json.loads(run(capsys, command, *words)[1]) for command in ("plan", "simulate"))
    for one, other in zip(planned["phases"], simulated["phases"], strict=True):
        assert other["step_seconds"] == pytest.approx(one["step_seconds"], rel=0.1)
    encode = simulated["phases"][0]
    assert encode["step_seconds"] < 0.5 * encode["seconds"]  # most of it is loading


def test_a_queue_is_counted_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", "flux-dev", "--gpu", "rtx-3060", "--format", "text_encoder_2=BF16", "--json")
    alone = json.loads(run(capsys, "plan", *words)[1])
    assert "queue" not in alone
    planned = json.loads(run(capsys, "plan", *words, "--queued", "10")[1])
    queue = planned["queue"]
    assert queue["jobs"] == 10
    assert 0 < queue["read_ahead"] <= 9
    assert alone["total_seconds"] < queue["total_seconds"] <= queue["apart_seconds"]
    assert queue["link_bytes"] < queue["apart_link_bytes"]
    assert any(reason.startswith("10 queued prompts take") for reason in planned["reasons"])
    by_itself = json.loads(run(capsys, "plan", *words, "--queued", "10", "--no-cache")[1])["queue"]
    assert by_itself["read_ahead"] == 0
    assert by_itself["link_bytes"] == by_itself["apart_link_bytes"]


def test_what_is_impossible_says_why_and_what_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "plan", "--model", "wan22-a14b", "--gpu", "rx-6600")
    assert "has no memory-efficient attention" in err
    assert " frames at " in err
    words = ("--model", "flux-dev", "--gpu", "rtx-3060", "--vram", "2GB")
    _, _, err = run(capsys, "plan", *words)
    assert "with --headroom (now 1.0 GB)" in err
    assert run(capsys, "plan", *words, "--headroom", "100MB")[0] == 0
