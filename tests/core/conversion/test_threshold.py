"""A threshold is a person's word for everything, CLIP too, whose packed weights make the same picture anywhere."""

from __future__ import annotations

from pathlib import Path

from core.messages import How
from core.models.gguf_header import read_gguf
from core.resources import resource
from tests.core.conversion.test_whole_pictures import engine, picture, streamed
from tests.core.conversion.written import convert, report_of

STARTER = resource("starter", "model")


def types_of_clip(path: Path) -> dict[str, str]:
    return {name: tensor.type for name, tensor in read_gguf(path).tensors.items() if "clip" in name}


def test_clip_follows_a_threshold_down_to_eight_bits(tmp_path: Path) -> None:
    for threshold in ("1%", "6%"):
        report = report_of(tmp_path, STARTER, "--rmse", threshold)
        types = types_of_clip(tmp_path / "out.gguf")
        assert types
        assert "Q8_0" in types.values()
        assert set(types.values()) <= {"Q8_0", "F16", "F32"}
        assert all(kind != "Q8_0" for name, kind in types.items() if "norm" in name or name.endswith("bias"))
        assert report["components"]["text_encoder"]["rel_rmse"] < 0.01
    report_of(tmp_path, STARTER, "--rmse", "0.1%")
    assert "Q8_0" not in types_of_clip(tmp_path / "out.gguf").values()
    report_of(tmp_path, STARTER, "--rmse", "6%", "--keep", "text_encoders.clip_l*weight=F16")
    assert "Q8_0" not in types_of_clip(tmp_path / "out.gguf").values()
    report_of(tmp_path, STARTER, "--format", "Q6_K")
    assert "Q8_0" not in types_of_clip(tmp_path / "out.gguf").values()


def test_a_packed_clip_makes_the_same_picture_anywhere(home: Path, tmp_path: Path) -> None:
    convert(STARTER, "-o", tmp_path / "a.gguf", "--rmse", "3%")
    with engine("emulated") as card:
        whole = picture(card, tmp_path / "a.gguf", How(cache=False))
        assert picture(card, tmp_path / "a.gguf", streamed("text_encoder")).pixels_sha256 == whole.pixels_sha256
    with engine("cpu") as processor:
        assert picture(processor, tmp_path / "a.gguf", How(cache=False)).pixels_sha256 == whole.pixels_sha256
