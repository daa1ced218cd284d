"""The libraries of a Linux system that Qt's wheels expect to find: which are missing, and which packages hold them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass

from system_packages import SetupError, find_manager, install


@dataclass(frozen=True)
class Library:
    """A shared library by its soname, and the package that holds it on Debian, Fedora and Arch.

    Without a `platform` (x11, wayland) every program that imports QtGui needs it, whether it shows a window or not.
    """

    soname: str
    apt: str
    dnf: str
    pacman: str
    platform: str = ""

    def package(self, manager_name: str) -> str:
        """The package's name for `apt`, `dnf` or `pacman`."""
        return {"apt": self.apt, "dnf": self.dnf, "pacman": self.pacman}[manager_name]


# Read from the dynamic sections of QtCore, QtGui, QtWidgets, QtSvg, QtNetwork, QtDBus and of the xcb, wayland and
# offscreen plugins of PySide6-Essentials 6.12; libxcb itself and its small extensions come with the packages below.
LIBRARIES = (
    Library("libGL.so.1", "libgl1", "libglvnd-glx", "libglvnd"),
    Library("libEGL.so.1", "libegl1", "libglvnd-egl", "libglvnd"),
    Library("libglib-2.0.so.0", "libglib2.0-0", "glib2", "glib2"),
    Library("libdbus-1.so.3", "libdbus-1-3", "dbus-libs", "dbus"),
    Library("libfontconfig.so.1", "libfontconfig1", "fontconfig", "fontconfig"),
    Library("libfreetype.so.6", "libfreetype6", "freetype", "freetype2"),
    Library("libxkbcommon.so.0", "libxkbcommon0", "libxkbcommon", "libxkbcommon"),
    Library("libxkbcommon-x11.so.0", "libxkbcommon-x11-0", "libxkbcommon-x11", "libxkbcommon-x11", "x11"),
    Library("libX11.so.6", "libx11-6", "libX11", "libx11"),
    Library("libX11-xcb.so.1", "libx11-xcb1", "libX11-xcb", "libx11", "x11"),
    Library("libxcb-cursor.so.0", "libxcb-cursor0", "xcb-util-cursor", "xcb-util-cursor", "x11"),
    Library("libxcb-glx.so.0", "libxcb-glx0", "libxcb", "libxcb", "x11"),
    Library("libxcb-icccm.so.4", "libxcb-icccm4", "xcb-util-wm", "xcb-util-wm", "x11"),
    Library("libxcb-image.so.0", "libxcb-image0", "xcb-util-image", "xcb-util-image", "x11"),
    Library("libxcb-keysyms.so.1", "libxcb-keysyms1", "xcb-util-keysyms", "xcb-util-keysyms", "x11"),
    Library("libxcb-randr.so.0", "libxcb-randr0", "libxcb", "libxcb", "x11"),
    Library("libxcb-render-util.so.0", "libxcb-render-util0", "xcb-util-renderutil", "xcb-util-renderutil", "x11"),
    Library("libxcb-shape.so.0", "libxcb-shape0", "libxcb", "libxcb", "x11"),
    Library("libxcb-sync.so.1", "libxcb-sync1", "libxcb", "libxcb", "x11"),
    Library("libxcb-util.so.1", "libxcb-util1", "xcb-util", "xcb-util", "x11"),
    Library("libxcb-xfixes.so.0", "libxcb-xfixes0", "libxcb", "libxcb", "x11"),
    Library("libxcb-xkb.so.1", "libxcb-xkb1", "libxcb", "libxcb", "x11"),
    Library("libwayland-client.so.0", "libwayland-client0", "libwayland-client", "wayland", "wayland"),
    Library("libwayland-cursor.so.0", "libwayland-cursor0", "libwayland-cursor", "wayland", "wayland"),
    Library("libwayland-egl.so.1", "libwayland-egl1", "libwayland-egl", "wayland", "wayland"),
)


def loads(soname: str) -> bool:
    """Whether the dynamic linker finds the library: exactly the question that Qt's start will ask."""
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def missing(platforms: set[str], found: Callable[[str], bool] = loads) -> list[Library]:
    """What Qt would not find for these platforms; nothing on systems whose Qt wheels bring everything."""
    if not sys.platform.startswith("linux"):
        return []
    wanted = {"", *platforms}
    return [library for library in LIBRARIES if library.platform in wanted and not found(library.soname)]


def ensure(platforms: set[str]) -> None:
    """Install what is missing for `platforms`, out of x11 and wayland.

    Raises:
        SetupError: something is missing and cannot be installed from here; with the command to run.
    """
    absent = missing(platforms)
    if not absent:
        return
    manager = find_manager()
    if manager is None:
        names = ", ".join(library.soname for library in absent)
        raise SetupError(f"Qt needs these system libraries, please install them: {names}.")
    packages = sorted({library.package(manager.name) for library in absent})
    install(manager, packages, "the window (Qt)")
    still = [library.soname for library in missing(platforms)]
    if still:
        raise SetupError(f"Qt's system libraries were installed but cannot be loaded: {', '.join(still)}.")
