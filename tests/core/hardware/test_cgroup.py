"""A container's memory is the smallest of its groups' limits, in both versions of control groups."""

from __future__ import annotations

from pathlib import Path

from core.hardware import machine
from core.hardware.cgroup import limits
from tests.core.hardware import trees

GB = 10**9


def test_no_groups_no_limit(tmp_path: Path) -> None:
    trees.host(tmp_path, 16_000_000, 12_000_000)
    assert limits(tmp_path) == []
    assert machine.memory(tmp_path) == (16_000_000 * 1024, 12_000_000 * 1024)


def test_version_2_in_a_container(tmp_path: Path) -> None:
    trees.host(tmp_path, 64_000_000, 60_000_000)
    trees.write(tmp_path, {"proc/self/cgroup": "0::/"})
    stat = "anon 1000\ninactive_file 500000000\nactive_file 7"
    files = {"memory.max": str(8 * GB), "memory.current": str(3 * GB), "memory.stat": stat}
    trees.write(tmp_path / "sys/fs/cgroup", files)
    # half a gigabyte of its use is cached file pages, given up for the asking
    assert machine.memory(tmp_path) == (8 * GB, 5_500_000_000)


def test_version_2_nested(tmp_path: Path) -> None:
    trees.host(tmp_path, 64_000_000, 60_000_000)
    trees.write(tmp_path, {"proc/self/cgroup": "0::/user.slice/user-1000.slice/app.scope"})
    base = tmp_path / "sys/fs/cgroup/user.slice"
    trees.write(base, {"memory.max": str(10 * GB), "memory.current": str(9 * GB)})
    trees.write(base / "user-1000.slice", {"memory.max": "max", "memory.current": str(9 * GB)})
    trees.write(base / "user-1000.slice/app.scope", {"memory.max": str(20 * GB), "memory.current": str(2 * GB)})
    assert limits(tmp_path) == [(20 * GB, 2 * GB), (10 * GB, 9 * GB)]
    assert machine.memory(tmp_path) == (10 * GB, GB)  # the neighbours' use counts in the group around them


def test_version_1_with_a_path_of_the_host(tmp_path: Path) -> None:
    trees.host(tmp_path, 64_000_000, 60_000_000)
    lines = ["12:cpu,cpuacct:/docker/abc", "4:memory:/docker/abc:1", "0::/docker/abc"]
    trees.write(tmp_path, {"proc/self/cgroup": "\n".join(lines)})
    stat = "cache 5\ntotal_inactive_file 1000000000"
    files = {"memory.limit_in_bytes": str(6 * GB), "memory.usage_in_bytes": str(2 * GB), "memory.stat": stat}
    trees.write(tmp_path / "sys/fs/cgroup/memory", files)  # the container's own group is mounted at the top
    assert machine.memory(tmp_path) == (6 * GB, 5 * GB)


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    trees.host(tmp_path, 16_000_000, 12_000_000)
    files = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": str(2 * GB)}
    trees.write(tmp_path / "sys/fs/cgroup/memory", files)
    assert machine.memory(tmp_path) == (16_000_000 * 1024, 12_000_000 * 1024)


def test_nonsense_is_no_limit(tmp_path: Path) -> None:
    trees.write(tmp_path, {"proc/self/cgroup": "what\n::\n0::/../../outside\n1:memory:"})
    trees.write(
        tmp_path / "sys/fs/cgroup", {"memory.max": "-1", "memory.current": "many", "memory.stat": "inactive_file"}
    )
    assert limits(tmp_path) == []
    trees.write(tmp_path / "sys/fs/cgroup", {"memory.max": "0"})
    assert limits(tmp_path) == []
    trees.write(tmp_path / "sys/fs/cgroup", {"memory.max": "1000"})
    assert limits(tmp_path) == [(1000, 0)]
