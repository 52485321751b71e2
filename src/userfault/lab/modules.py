"""Kernel modules from an unpacked package: which depend on which, and their bytes.

A package has no modules.dep (its postinst would make it), so dependencies are read from the
modules themselves: the `depends=` entry of their .modinfo section (module.h, modpost).
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import zstandard

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def _zstd(data: bytes) -> bytes:
    """All at once; a frame need not tell its length."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


_OPENERS: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".zst": _zstd,
}


class Modules:
    """The modules under a directory (as /lib/modules/RELEASE)."""

    def __init__(self, root: Path) -> None:
        # A name is written with - or _, without a difference (modprobe(8)).
        self._paths = {
            path.name.partition(".ko")[0].replace("-", "_"): path for path in root.rglob("*.ko*")
        }

    def load_order(self, wanted: Iterable[str]) -> list[tuple[str, bytes]]:
        """(name, bytes) of the wanted modules and what they depend on, in the order to load.

        What has no file is left out: it is built into the kernel, or the kernel lacks it.
        """
        order: dict[str, bytes] = {}
        for name in wanted:
            self._visit(name.replace("-", "_"), order)
        return list(order.items())

    def _visit(self, name: str, order: dict[str, bytes]) -> None:
        path = self._paths.get(name)
        if path is None or name in order:
            return
        data = _OPENERS[path.suffix](path.read_bytes())
        found = _DEPENDS.search(data)
        for needed in found[1].decode().split(",") if found else ():
            if needed:
                self._visit(needed.replace("-", "_"), order)
        order[name] = data
