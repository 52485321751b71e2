"""How much memory is left before somebody is killed for it: by the memory cgroup, or the machine.

cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) and v1 (cgroup-v1/memory.rst).  Every level
counts what is used below it, so the least that any level leaves is what is left.  Page cache and
slab that can be taken back are as good as free; shared memory is not, which counts as page cache
there.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

_KEPT = 64 << 20  # bytes, at least
_SHARE = 8  # of a limit, one in so many bytes
_ENDLESS = 1 << 60  # v1 says "no limit" by the largest number of pages


class Room(msgspec.Struct, frozen=True):
    """`left`: bytes that may come in still.  `limit`: of which the most is, in the level that
    leaves the least.  `whose`: who sets it, in words."""

    left: int
    limit: int
    whose: str

    @property
    def spare(self) -> int:
        """Of what is left, how much may be taken: the rest is for the program and its pager.

        Below zero where more has been taken than that: it is to be given back.
        """
        return self.left - min(max(_KEPT, self.limit // _SHARE), self.limit // 4)


def room_of(pid: int = 0) -> Room | None:
    """What process `pid` (0: this one) has left; None where nobody says."""
    found = [room for room in (_machine(), *_levels(pid)) if room is not None]
    return min(found, key=lambda room: room.left, default=None)


def _machine() -> Room | None:
    try:
        with open("/proc/meminfo", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file if b":" in line)
        total, left = (int(lines[name].split()[0]) << 10 for name in (b"MemTotal", b"MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    return Room(left, total, "the machine")


def _levels(pid: int) -> list[Room | None]:
    """Of the cgroup of the process, and those above it."""
    found: list[Room | None] = []
    with contextlib.suppress(OSError, ValueError):
        for folder, top in _folders(pid):
            above = [each for each in folder.parents if each.is_relative_to(top)]
            found += [_level(each) for each in (folder, *above)]
    return found


def _folders(pid: int) -> list[tuple[Path, Path]]:
    """Where its memory cgroup lies, and the top of that hierarchy."""
    from pathlib import Path  # noqa: PLC0415  # a pager's start would wait 3 ms for it

    name = pid or "self"
    paths = {}
    for line in Path(f"/proc/{name}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            paths["cgroup2" if number == "0" else "cgroup"] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mounted, _, kind = line.partition(" - ")
        fields, (system, _, options) = mounted.split(), kind.split(" ", 2)
        if system not in paths or (system == "cgroup" and "memory" not in options.split(",")):
            continue
        top = Path(_unescaped(fields[4]))
        path, root = paths[system], _unescaped(fields[3])
        below = path[len(root) :] if path.startswith(root) else path
        folder = top / below.lstrip("/")
        # In a cgroup namespace, or where a part of it is mounted: the nearest that is to be seen.
        found.append((folder if folder.is_dir() else top, top))
    return found


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _level(folder: Path) -> Room | None:
    for limits, use, names in (_V2, _V1):
        limit = min(_number(folder / name) for name in limits)
        if limit < _ENDLESS:
            used = int((folder / use).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            back = sum(int(stat.get(name, 0)) for name in names)
            return Room(max(limit - used + back, 0), limit, f"the memory cgroup {folder}")
    return None


# limits, what is used, and what of it can be taken back
_Files = tuple[tuple[str, ...], str, tuple[str, ...]]
_V2: _Files = (
    ("memory.max", "memory.high"),
    "memory.current",
    ("inactive_file", "active_file", "slab_reclaimable"),
)
_V1: _Files = (
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def _number(path: Path) -> int:
    try:
        text = path.read_text().strip()
    except OSError:
        return _ENDLESS
    return _ENDLESS if text == "max" else int(text)
