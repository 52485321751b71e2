"""What every benchmark gets: how large, how often, where, and the compiled parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.machine import available_bytes
from bench.measure import Checks, Row
from bench.native import Native


class Run:
    """One run of some benchmarks.  `tiny`: small sizes, so that only the working is shown.

    `images`: files that the user wants to have measured too, where a benchmark takes any.
    `umap`: where UMap is built (its `lib/libumap.so`).  `mib`: the size of images, where a
    benchmark leaves that open.  `guest`, `criu`: a QEMU guest, and CRIU's daemon as a rival, where
    a benchmark can have them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tiny: bool,
        rounds: int,
        images: Sequence[Path] = (),
        umap: Path | None = None,
        mib: int = 512,
        guest: bool = False,
        criu: bool = False,
    ) -> None:
        self.native = Native(directory)
        self.directory = directory
        self.tiny = tiny
        self.rounds = rounds
        self.images = images
        self.umap = umap
        self.mib = mib
        self.guest = guest
        self.criu = criu
        self.checks = Checks()
        self.rows: list[Row] = []
        self.left_out: list[str] = []

    def size(self, full: int, tiny: int) -> int:
        """A size, by how large this run is."""
        return tiny if self.tiny else full

    def fits(self, what: str, length: int) -> bool:
        """Whether `length` bytes of memory are to be had; if not, the report says so."""
        if available_bytes() >= length:
            return True
        self.left_out.append(f"{what}: needs {length >> 20} MiB of free memory")
        return False
