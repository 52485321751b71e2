"""How much memory is a process's own: proc_pid_smaps_rollup(5), Linux 4.14."""

from __future__ import annotations

_OURS = ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")


def private_memory(pid: int) -> int:
    """Bytes that nobody else maps; 0 when the process has ended or may not be looked at.

    Pages of files and memory shared with others do not count, however much of them is mapped.
    """
    total = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                name, *rest = line.split()
                if name in _OURS:
                    total += int(rest[0]) * 1024
    except OSError:
        return 0
    return total
