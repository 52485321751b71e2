"""What /proc/PID/smaps tells of mappings (proc_pid_smaps(5)): it walks the page tables for it."""

from __future__ import annotations

_OURS = (b"Private_Clean:", b"Private_Dirty:", b"Private_Hugetlb:")


def private_memory(pid: int) -> int:
    """Bytes that nobody else maps; 0 when the process has ended or may not be looked at.

    What is mapped shared does not count, however much of it there is: its pages are a file's or a
    memfd's, and smaps calls them private as long as one process alone maps them.
    """
    total, private = 0, False
    try:
        with open(f"/proc/{pid}/smaps", "rb") as file:
            for line in file:  # of bytes, which end at line feeds: names hold anything else
                name, *rest = line.split()
                if not name.endswith(b":"):  # the head: "start-end perms ..."
                    private = rest[0].endswith(b"p")
                elif private and name in _OURS:
                    total += int(rest[0]) * 1024
    except OSError:
        return 0
    return total


def page_size_at(pid: int, start: int) -> int:
    """Bytes of a page of the mapping that begins at `start`; 4096 where there is none."""
    return mapped_at(start, "KernelPageSize", pid) or 4096


def served_ranges(pid: int) -> list[tuple[int, int]]:
    """[start, end) of the mappings that are registered with a userfaultfd for missing pages.

    In ascending order; "um" of VmFlags (proc_pid_smaps(5)).
    """
    found = []
    head = b""
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            name, *rest = line.split()
            if not name.endswith(b":"):
                head = name
            elif name == b"VmFlags:" and b"um" in rest:
                start, _, end = head.partition(b"-")
                found.append((int(start, 16), int(end, 16)))
    return found


def proportional(pid: int) -> int:
    """Bytes of memory of a process, each page divided among those who map it (`Pss`)."""
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def mapped_at(start: int, field: str, pid: int | str = "self") -> int:
    """Bytes that `field` of smaps tells of the mapping that begins at `start`; 0 for none there."""
    head, name = b"%x-" % start, field.encode() + b":"
    found = False
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            if not line.split()[0].endswith(b":"):
                found = line.lstrip(b"0").startswith(head)
            elif found and line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0
