"""What a plan counts for a file with packed tensors is what the file has, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from core.messages import How, UserError
from core.models.local import profile_of
from core.models.mixed import as_stored
from core.models.profile import ComponentProfile, load
from core.models.single import read_file
from core.planning import policy
from core.planning.how import options_of
from core.planning.options import DEFAULT
from core.precision.formats import FORMATS
from core.resources import resource
from tests.core.conversion.written import convert


def counted(profile: ComponentProfile) -> int:
    """Bytes of all tensors as they are planned, dense ones with 16 bits."""
    wanted = policy.allowed(profile, "denoise")[0]
    parts = [(profile.rest, 1), *((profile.kinds[kind], count) for kind, count in profile.order)]
    return sum(
        FORMATS[policy.tensor_format(tensor, wanted, profile.source_format)].bytes_of(tensor.shape) * count
        for part, count in parts
        for tensor in part.tensors
    )


@pytest.mark.parametrize(
    "mode", [("--format", "Q8_0"), ("--format", "Q5_K"), ("--target-size", "11MB", "--sensitivity", "table")]
)
def test_plans_count_the_bytes_that_the_file_has(home: Path, tmp_path: Path, mode: tuple[str, ...]) -> None:
    convert(resource("starter", "model"), "-o", tmp_path / "a.gguf", *mode)
    info = read_file(tmp_path / "a.gguf")
    profile = profile_of(info)
    assert profile is not None
    for name in ("transformer", "text_encoder_2"):
        found = profile.components[name]
        assert policy.allowed(found, "denoise") == (info.components[name].format,)
        assert counted(found) == info.components[name].bytes
        assert sum(count for _, count in found.order) == sum(count for _, count in _shipped(name).order)
    if mode[0] == "--target-size":
        assert len(profile.components["transformer"].kinds) > len(_shipped("transformer").kinds)
    for wanted in ("Q4_K", "BF16"):
        with pytest.raises(UserError, match="is packed in its file"):
            options_of(
                How(formats={"transformer": wanted}), profile, able=msgspec.structs.replace(DEFAULT, packing=True)
            )


def _shipped(name: str) -> ComponentProfile:
    return load("starter").components[name]


def test_names_that_tell_nothing_leave_a_profile_as_it_is(home: Path, tmp_path: Path) -> None:
    convert(resource("starter", "model"), "-o", tmp_path / "a.gguf", "--format", "Q8_0")
    component = read_file(tmp_path / "a.gguf").components["transformer"]
    shipped = _shipped("transformer")
    other = msgspec.structs.replace(shipped, order=shipped.order[:1])
    assert as_stored(other, component) == other
    packed = msgspec.structs.replace(other, source_format="Q8_0")
    assert counted(packed) < counted(other)  # by roles then
