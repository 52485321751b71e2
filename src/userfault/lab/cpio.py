"""Writing cpio archives in the format that the kernel unpacks at boot.

Source: Documentation/driver-api/early-userspace/buffer-format.rst ("newc"; archives may follow one
another).
"""

from __future__ import annotations

import stat

_TRAILER = "TRAILER!!!"


class Archive:
    """An archive in memory.  Directories on the way to an entry are made by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: set[str] = {""}
        self._inode = 0

    def file(self, path: str, data: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        """A regular file.  `mtime`: Python's compiled files are good for a source of their time."""
        self._add(path, stat.S_IFREG | mode, data, mtime)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def directory(self, path: str) -> None:
        """A directory, and those above it."""
        path = path.strip("/")
        if path in self._known:
            return
        self.directory(path.rpartition("/")[0])
        self._known.add(path)
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def _add(self, path: str, mode: int, data: bytes, mtime: int = 0) -> None:
        path = path.strip("/")
        if path in self._known:
            return
        self.directory(path.rpartition("/")[0])
        self._known.add(path)
        self._entry(path, mode, data, mtime)

    def _entry(self, name: str, mode: int, data: bytes, mtime: int = 0) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, four numbers of devices, name's size, check
        fields = (self._inode, mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(head + encoded), _padded(data)]

    def pack(self) -> bytes:
        """The whole archive, padded so that another may follow."""
        self._entry(_TRAILER, 0, b"")
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
