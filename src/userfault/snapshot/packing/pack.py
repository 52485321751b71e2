"""Packing memory into a store: classify pages, store what is new, write down what is where.

Zeros and pages of one repeated word take no space; a page whose content the store or the image
has already is referred to; the others fill chunks, in the order of addresses or of the working set
given.  Chunks are stored first, then the index, then the manifest: until that one is there, there
is no snapshot.  What a pack that failed has stored, it removes; what one that was killed has
stored, the next one uses, or removes (`leases` says why nobody else can rely on it by then).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from userfault.kernel.errors import UsageError, UserfaultError
from userfault.snapshot.format import envelope, manifest
from userfault.snapshot.format.chunk import MOST_RAW
from userfault.snapshot.format.manifest import Manifest, pages_of
from userfault.snapshot.format.runs import CHUNK, HOLE, PARENT, WORD, ZERO, Runs
from userfault.snapshot.inputs.protocol import PAGE, PageInput
from userfault.snapshot.packing import making
from userfault.snapshot.packing.claim import Claim
from userfault.snapshot.packing.classify import Classifier
from userfault.snapshot.packing.dedupe import PageTable
from userfault.snapshot.packing.feeding import Feed
from userfault.snapshot.packing.ground import INDEX_MEMORY, Ground
from userfault.snapshot.packing.leftovers import remove_leftovers
from userfault.snapshot.packing.storing import Storing
from userfault.snapshot.stores.keys import check_name
from userfault.snapshot.stores.leases import Lease, Seen
from userfault.snapshot.stores.objects import Objects

CHUNK_SIZE = 128 << 10
LEVEL = 1
LEVELS = range(1, 23)

# (pages done, pages of the image)
Progress = Callable[[int, int], None]


class Packed(msgspec.Struct, frozen=True):
    """What a pack made.  Lengths are in bytes; the others count pages, and add up to `pages`.

    `stored` were new to the store; `duplicate` were in the image before, `shared` in the store;
    `parent` are as in the base.  `chunks` were written, of `chunk_bytes` together.  `stopped_s`:
    for how long a process that was packed stood still, in seconds.
    """

    name: str
    digest: str
    base: str
    length: int
    pages: int
    zero: int
    hole: int
    word: int
    duplicate: int
    shared: int
    parent: int
    stored: int
    chunks: int
    chunk_bytes: int
    manifest_bytes: int
    index_bytes: int
    stopped_s: float = 0.0

    @property
    def bytes(self) -> int:
        """What the store has grown by."""
        return self.chunk_bytes + self.manifest_bytes + self.index_bytes


def pack(
    objects: Objects,
    name: str,
    pages: PageInput,
    *,
    base: str | None = None,
    level: int = LEVEL,
    chunk_size: int = CHUNK_SIZE,
    order: Sequence[int] | None = None,
    dedupe_memory: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Store `pages` as the snapshot `name`, or nothing at all.

    `base`: a snapshot; only what differs from it is stored.  `level`: of zstd, 1 to 22.
    `chunk_size`: bytes, a multiple of 4096 up to 1 MiB.  `order`: pages to store first, those that
    a restored program touches first.  `dedupe_memory`: a hard bound, in bytes, on what is
    remembered of page contents; a small one costs sharing.  Without it that is 64 MiB for those in
    the store and 24 bytes for each of the image.  `threads` compress and store.

    Raises SnapshotInUse (the name is taken, somebody else is writing it, or the base is being
    removed), NoSuchSnapshot and FormatError (the base), StoreFull, StoreError, what `pages`
    raises, UsageError.
    """
    _check(name, pages, level, chunk_size)
    known = PageTable(
        pages_of(pages.length), None if dedupe_memory is None else dedupe_memory * 7 // 8
    )
    with Lease(objects, "pack", name=name, base=base or "") as lease:
        job = _Job(objects, name, pages, lease)
        try:
            memory = INDEX_MEMORY if dedupe_memory is None else dedupe_memory // 2
            ground = job.begin(base, known, memory)
            storing = job.storing = Storing(objects, ground.chunks, lease.id, level, threads)
            runs = job.store(ground, storing, chunk_size, order, progress)
            return job.commit(ground, storing, runs)
        except BaseException:
            job.failed = True
            raise
        finally:
            # The first error, if there is one, is what is to be told.
            with contextlib.suppress(UserfaultError):
                job.clean()


def _check(name: str, pages: PageInput, level: int, chunk_size: int) -> None:
    """UsageError for what cannot be packed."""
    check_name(name)
    if chunk_size % PAGE or not 0 < chunk_size <= MOST_RAW:
        raise UsageError(
            f"cannot make chunks of {chunk_size} bytes",
            cure=f"give a multiple of {PAGE} up to {MOST_RAW}",
        )
    if level not in LEVELS:
        raise UsageError(f"zstd has no level {level}", cure="give one of 1 to 22")
    if not 0 <= pages.length <= manifest.MOST_LENGTH:
        raise UsageError(f"an image has at most {manifest.MOST_LENGTH} bytes, not {pages.length}")


class _Job:
    """One pack, from its lease to its manifest.

    `storing`: what it has stored, which is to go where it has `failed`.
    """

    def __init__(self, objects: Objects, name: str, pages: PageInput, lease: Lease) -> None:
        self._objects = objects
        self._name = name
        self._pages = pages
        self._lease = lease
        self._claim = Claim(objects, name, lease)
        self._dead: list[Seen] = []
        self.storing: Storing | None = None
        self.failed = False

    def begin(self, base: str | None, known: PageTable, index_memory: int) -> Ground:
        """See who else is there, open the base, and read what the store has."""
        self._dead = self._claim.wait(base)
        ground = Ground(self._objects, base, known)
        ground.read_index(index_memory, self._lease.renew)
        return ground

    def store(
        self,
        ground: Ground,
        storing: Storing,
        chunk_size: int,
        order: Sequence[int] | None,
        progress: Progress | None,
    ) -> Runs:
        """Read all pages and store those that are new; where each of them is."""
        total = pages_of(self._pages.length)

        def tell(done: int) -> None:
            self._lease.renew()
            if progress is not None:
                progress(done, total)

        in_base = ground.in_base.slot if ground.in_base is not None else None
        classifier = Classifier(ground.known, ground.chunks, chunk_size, storing.seal, in_base)
        with contextlib.closing(storing):
            Feed(self._pages, classifier, ground, self._name, tell).all(order)
            storing.end_piece()
        return classifier.runs

    def commit(self, ground: Ground, storing: Storing, runs: Runs) -> Packed:
        """Everything is stored: write the manifest, and there is a snapshot."""
        about = self._pages.finish()
        # What was written again while it was read may have left none of a chunk that we stored.
        made, shared = making.make(self._pages, about, runs, ground, storing.first, self._lease.id)
        making.check_shared(self._objects, made.chunks, shared, self._lease.renew)
        data = making.encode(self._name, made, ground.base)
        self._objects.flush()
        self._claim.put(data)
        return _packed(self._name, made, shared, data, storing)

    def clean(self) -> None:
        """Remove what this pack, if it failed, and those that were killed have left behind."""
        vain = self.storing if self.failed and not self._claim.unsure else None
        remove_leftovers(self._objects, self._lease, self._dead, vain)


def _packed(name: str, made: Manifest, shared_chunks: int, data: bytes, storing: Storing) -> Packed:
    pages = [0] * (CHUNK + 1)
    shared = 0
    first = made.chunks.starts[shared_chunks]  # slot of the first new chunk
    for count, kind, value in made.runs:
        pages[kind] += count
        if kind == CHUNK:
            shared += max(0, min(value + count, first) - value)
    stored = made.chunks.slots - first
    return Packed(
        name=name,
        digest=envelope.digest_of(data).hex(),
        base=made.base.name if made.base else "",
        length=made.length,
        pages=made.pages,
        zero=pages[ZERO],
        hole=pages[HOLE],
        word=pages[WORD],
        duplicate=pages[CHUNK] - shared - stored,
        shared=shared,
        parent=pages[PARENT],
        stored=stored,
        chunks=storing.count,
        chunk_bytes=storing.chunk_bytes,
        manifest_bytes=len(data),
        index_bytes=storing.index_bytes,
    )
