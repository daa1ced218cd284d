"""When the environment is made again, and what a person reads when set-up fails."""

from __future__ import annotations

import sys
from pathlib import Path

import environment
import pip_install
import pytest
from system_packages import SetupError
from torch_choice import make_choice

CPU = make_choice("cpu", "Linux", "no GPU was found")
ROCM = make_choice("rocm", "Linux", "a card")
PROJECT = """
[build-system]
requires = ["hatchling"]
[project]
name = "residency-studio"
dependencies = ["pillow"]
[tool.ruff]
line-length = 120
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A finished environment, as far as its stamp goes."""
    folder = tmp_path / ".venv"
    python = pip_install.python_of(folder)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    environment.write_stamp(folder, "hash", {"engine"}, CPU, None)
    return folder


def stale(venv: Path, project: str = "hash", extras: tuple[str, ...] = ("engine",), choice=CPU) -> str:
    return environment.stale_because(environment.read_stamp(venv), venv, project, set(extras), choice)


def test_nothing_to_do_while_nothing_changed(venv: Path) -> None:
    assert stale(venv) == ""


def test_stale_after_each_kind_of_change(venv: Path) -> None:
    assert "requirements" in stale(venv, project="other")
    assert "torch" in stale(venv, choice=ROCM)
    assert "packages" in stale(venv, extras=("engine", "dev"))


def test_stale_when_moved_or_without_python(venv: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    venv.rename(moved)
    assert "moved" in stale(moved)
    pip_install.python_of(moved).unlink()
    assert "no finished environment" in stale(moved)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_stale_when_the_stamp_is_damaged(venv: Path, content: str) -> None:
    (venv / environment.STAMP).write_text(content)
    assert "no finished environment" in stale(venv)


def test_stamp_is_written_whole(venv: Path) -> None:
    assert [path.name for path in venv.glob(f"{environment.STAMP}*")] == [environment.STAMP]
    assert environment.read_stamp(venv)["extras"] == ["engine"]


def test_fingerprint_follows_requirements_and_not_the_settings_of_tools() -> None:
    same = environment.fingerprint(PROJECT.replace("120", "100"))
    assert same == environment.fingerprint(PROJECT)
    assert environment.fingerprint(PROJECT.replace("pillow", "pillow>=11")) != same
    with pytest.raises(SetupError, match=r"pyproject\.toml"):
        environment.fingerprint("[project")


def test_half_made_environment_is_removed(venv: Path) -> None:
    (venv / environment.UNFINISHED).touch()
    environment._discard_if_unusable(venv, environment.read_stamp(venv), CPU)
    assert not venv.exists()


def test_environment_with_another_torch_is_removed(venv: Path) -> None:
    environment._discard_if_unusable(venv, environment.read_stamp(venv), ROCM)
    assert not venv.exists()


def test_usable_environment_without_a_stamp_is_kept(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_runs", lambda venv: True)
    environment._discard_if_unusable(venv, {}, CPU)
    assert venv.exists()


def test_refuses_to_begin_without_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": int(1e9)})
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SetupError, match=r"about 20 GB here and 1\.0 GB are free"):
        environment._require_space(tmp_path, ROCM)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "WARNING: Retrying: Failed to establish a new connection: [Errno -2] Name or service not known\n"
            "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)",
            "network cannot be reached",
        ),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate", "certificate"),
        ("ReadTimeoutError: Read timed out.", "broke off"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no build of torch for Python"),
        ("ERROR: [Errno 13] Permission denied: '/x'", "no permission"),
        ("WARNING: a\nERROR: something new", "ERROR: something new"),
        ("", "pip could not install torch."),
    ],
)
def test_each_failure_of_pip_is_one_sentence(errors: str, expected: str) -> None:
    sentence = pip_install.explain(errors, "torch")
    assert expected in sentence
    assert "\n" not in sentence


def test_second_set_up_waits_for_the_first(tmp_path: Path) -> None:
    import subprocess

    lock = tmp_path / ".venv.lock"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import environment\n"
        "with environment._locked(Path(sys.argv[2])): print('inside')"
    )
    scripts = str(Path(environment.__file__).parent)
    with environment._locked(lock):
        other = subprocess.Popen([sys.executable, "-c", code, scripts, str(lock)], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
    output, _ = other.communicate(timeout=30)
    assert "inside" in output
