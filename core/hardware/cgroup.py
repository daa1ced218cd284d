"""The memory limits of containers: control groups, versions 1 and 2, with those that a group lies in. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.hardware.sysfs import read_int, read_text

_MOUNTS_V2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")  # the second where both versions are mounted
_MOUNT_V1 = "sys/fs/cgroup/memory"


def limits(root: Path = Path("/")) -> list[tuple[int, int]]:
    """(limit, used) in bytes of every group with a limit that this process is in, from the innermost out.

    Pages of files that nobody used lately are counted by the kernel but given up for the asking, so they are not used.
    Version 1 says "no limit" with a number beyond any machine's memory; it is returned like any other.
    """
    found = []
    for group, limit_name, used_name, cache_name in _groups(root):
        limit = read_int(group / limit_name)  # version 2 writes "max" for none
        if limit is not None and limit > 0:
            used = (read_int(group / used_name) or 0) - _stat(group / "memory.stat", cache_name)
            found.append((limit, max(0, used)))
    return found


def _groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    paths = _own_paths(root)
    for mount in _MOUNTS_V2:
        for path in _upwards(paths.get("", "/")):
            yield root / mount / path, "memory.max", "memory.current", "inactive_file"
    for path in _upwards(paths.get("memory", "/")):
        yield root / _MOUNT_V1 / path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def _own_paths(root: Path) -> dict[str, str]:
    """Controller -> path of this process's group; version 2 is the controller without a name."""
    paths = {}
    for line in read_text(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            paths.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return paths


def _upwards(path: str) -> Iterator[str]:
    """The path, relative to the mount, and all above it up to the mount itself.

    A container may see its path as the host does while its own group is mounted at the top: paths that are not there
    have no files to read, and the mount is always among them.
    """
    inner = PurePosixPath(*(part for part in PurePosixPath(path).parts if part not in ("/", "..")))
    yield from (str(part) for part in (inner, *inner.parents))


def _stat(path: Path, name: str) -> int:
    for line in read_text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0
