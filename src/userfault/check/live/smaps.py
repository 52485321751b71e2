"""Reading /proc/PID/smaps."""

from __future__ import annotations

from userfault.kernel.calls import VM_FLAGS, Vma

_KIB = 1 << 10
_SIZES = {
    "KernelPageSize": "page_size",
    "Rss": "rss",
    "Anonymous": "anonymous",
    "AnonHugePages": "huge",
    "Locked": "locked",
}


def parse_smaps(text: str) -> list[Vma]:
    """The mappings of the file, with the fields that `Vma` has."""
    found = []
    fields: dict[str, object] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon or " " in key:  # the head: "start-end perms offset dev inode name"
            fields = _head(line)
        elif key in _SIZES:
            fields[_SIZES[key]] = int(value.split()[0]) * _KIB
        elif key == "VmFlags":  # the last line of each
            flags = value.split()
            fields["flags"] = tuple(flag for flag in VM_FLAGS if flag in flags)
            found.append(Vma(**fields))  # type: ignore[arg-type]  # by name, from the file
    return found


def _head(line: str) -> dict[str, object]:
    addresses, permissions, offset, _, _, *name = line.split(None, 5)
    start, end = (int(address, 16) for address in addresses.split("-"))
    kept = name[0] if name and name[0] in ("[vdso]", "[vvar]") else ""
    return {
        "start": start,
        "end": end,
        "permissions": permissions,
        "offset": int(offset, 16),
        "name": kept,
    }
