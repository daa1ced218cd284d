"""The commands of dev.py and the system packages that they ask for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dev
import pytest
import qt_libraries
import system_packages
from system_packages import APT, DNF, SetupError

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


def test_options_of_ours_are_taken_out_and_the_rest_keeps_its_order() -> None:
    options, rest = dev.parse(["test", "-k", "queue", "--torch", "cpu", "tests/app", "-x"])
    assert options.command is dev.test
    assert options.torch == "cpu"
    assert rest == ["-k", "queue", "tests/app", "-x"]


@pytest.mark.parametrize("arguments", [[], ["fly"], ["check", "--bogus"]])
def test_unknown_commands_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dev.parse(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
def test_displays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "")
    assert dev.displays() is None
    monkeypatch.setenv("DISPLAY", ":0")
    assert dev.displays() == {"x11"}
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert dev.displays() == {"x11", "wayland"}


def test_set_up_errors_are_one_sentence_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise SetupError("The disk is full.")

    monkeypatch.setattr(dev, "prepared", fail)
    assert dev.main(["setup"]) == 1
    assert capsys.readouterr().err == "dev.py: The disk is full.\n"


def test_all_checks_run_and_the_failed_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def command(arguments: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, int("mypy" in arguments), "output", "")

    monkeypatch.setattr(dev.subprocess, "run", command)
    assert dev.run_checks(tmp_path, {}) == ["mypy"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lacks libraries of Qt")
def test_missing_libraries_follow_the_display() -> None:
    def names(platforms: set[str]) -> set[str]:
        return {library.soname for library in qt_libraries.missing(platforms, found=lambda _: False)}

    assert "libEGL.so.1" in names(set())
    assert "libxcb-cursor.so.0" not in names(set())
    assert "libxcb-cursor.so.0" in names({"x11"})
    assert "libwayland-client.so.0" in names({"wayland"})
    assert qt_libraries.missing({"x11"}, found=lambda _: True) == []


def test_libraries_are_found_by_loading_them() -> None:
    assert not qt_libraries.loads("libno-such-library.so.1")


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system on which one library is missing and no package may be installed."""
    monkeypatch.setattr(
        qt_libraries, "missing", lambda platforms: [qt_libraries.LIBRARIES[0], qt_libraries.LIBRARIES[1]]
    )
    monkeypatch.setattr(system_packages, "root_prefix", lambda: None)


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize(
    ("manager", "command"),
    [(APT, "sudo apt-get install -y libegl1 libgl1"), (DNF, "sudo dnf install -y libglvnd-egl libglvnd-glx")],
)
def test_without_root_the_exact_command_is_said(
    manager: system_packages.PackageManager, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qt_libraries, "find_manager", lambda: manager)
    with pytest.raises(SetupError, match=command):
        qt_libraries.ensure(set())


@pytest.mark.usefixtures("without_libraries")
def test_on_an_unknown_system_the_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qt_libraries, "find_manager", lambda: None)
    with pytest.raises(SetupError, match=r"libGL\.so\.1, libEGL\.so\.1"):
        qt_libraries.ensure(set())


def test_package_lists_are_refreshed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def captured(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package libegl1\n")

    monkeypatch.setattr(system_packages, "root_prefix", list)
    monkeypatch.setattr(system_packages, "_captured", captured)
    with pytest.raises(SetupError, match="Unable to locate package libegl1"):
        system_packages.install(APT, ["libegl1"], "the window")
    assert [command[-1] for command in ran] == ["libegl1", "update", "libegl1"]


def test_script_names_do_not_shadow_the_standard_library() -> None:
    assert not {path.stem for path in PACKAGING.glob("*.py")} & sys.stdlib_module_names
    assert not (PACKAGING / "__init__.py").exists()


def test_scripts_import_nothing_but_the_standard_library() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import dev"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(PACKAGING)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
