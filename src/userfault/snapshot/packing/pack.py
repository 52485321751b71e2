"""Packing memory into a store: classify pages, store what is new, write down what is where.

Zeros and pages of one repeated word take no space; a page whose content the store or the image
has already is referred to; the others fill chunks, in the order of addresses or of the working set
given.  Chunks are stored first, then the index, then the manifest: until that one is there, there
is no snapshot.  What a pack that failed has stored, it removes; what one that was killed has
stored, the next one uses, or removes (`leases` says why nobody else can rely on it by then).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from userfault.kernel.errors import UsageError, UserfaultError
from userfault.snapshot.errors import (
    AlreadyThere,
    FormatError,
    NoSuchObject,
    SnapshotInUse,
    StoreError,
    StoreFull,
)
from userfault.snapshot.format import envelope, index, manifest
from userfault.snapshot.format.chunk import MOST_RAW
from userfault.snapshot.format.manifest import MOST_SLOTS, Base, ChunkTable, Manifest, pages_of
from userfault.snapshot.format.runs import CHUNK, HOLE, PARENT, WORD, ZERO, Runs
from userfault.snapshot.inputs.protocol import PAGE, Holds, PageInput, Run
from userfault.snapshot.packing.classify import Classifier
from userfault.snapshot.packing.dedupe import DIGEST, PageTable
from userfault.snapshot.packing.layering import BasePages, only_used, unchanged_to_parent
from userfault.snapshot.packing.sweep import sweep
from userfault.snapshot.packing.writer import ChunkWriter
from userfault.snapshot.serving.image import Image, check_layers, open_image
from userfault.snapshot.stores.keys import CHUNKS, INDEX, chunk_key, piece_writer, snapshot_key
from userfault.snapshot.stores.leases import Lease, Seen
from userfault.snapshot.stores.objects import Listed, Objects

CHUNK_SIZE = 128 << 10
LEVEL = 1
LEVELS = range(1, 23)

# (pages done, pages of the image)
Progress = Callable[[int, int], None]

_BLOCK = 64  # pages read at once: with their copies they fit in a CPU's second cache
_CHUNK_ROW = 44  # bytes of memory for a chunk in the table
# What the index of the store may take of memory, where nobody says: pages of 11 GiB.
_INDEX_MEMORY = 64 << 20
_SWEEPER_WAIT_S = 600.0
_CLOCK_SLACK = 2.0  # seconds: granularity of a store's modification times
_CHECKS_AT_ONCE = 16
_PIECES_AT_ONCE = 8


class Packed(msgspec.Struct, frozen=True):
    """What a pack made.  Lengths are in bytes; the others count pages, and add up to `pages`.

    `stored` were new to the store; `duplicate` were in the image before, `shared` in the store;
    `parent` are as in the base.  `chunks` were written, of `chunk_bytes` together.
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
    snapshot_key(name)
    if chunk_size % PAGE or not 0 < chunk_size <= MOST_RAW:
        raise UsageError(
            f"cannot make chunks of {chunk_size} bytes",
            cure=f"give a multiple of {PAGE} up to {MOST_RAW}",
        )
    if level not in LEVELS:
        raise UsageError(f"zstd has no level {level}", cure="give one of 1 to 22")
    if not 0 <= pages.length <= manifest.MOST_LENGTH:
        raise UsageError(f"an image has at most {manifest.MOST_LENGTH} bytes, not {pages.length}")
    table = PageTable(
        pages_of(pages.length), None if dedupe_memory is None else dedupe_memory * 7 // 8
    )
    lease = Lease(objects, "pack", name=name, base=base or "")
    job = _Job(objects, name, pages, lease, table, progress)
    try:
        job.begin(base, _INDEX_MEMORY if dedupe_memory is None else dedupe_memory // 2)
        job.store(ChunkWriter(objects, job.chunks, level, threads), chunk_size, order)
        return job.commit()
    except BaseException:
        job.failed()
        raise
    finally:
        # The first error, if there is one, is what is to be told.
        with contextlib.suppress(UserfaultError):
            job.clean()
        with contextlib.suppress(UserfaultError):
            lease.release()


class _Job:
    """One pack, from its lease to its manifest."""

    def __init__(
        self,
        objects: Objects,
        name: str,
        pages: PageInput,
        lease: Lease,
        table: PageTable,
        progress: Progress | None,
    ) -> None:
        self._objects = objects
        self._name = name
        self._pages = pages
        self._lease = lease
        self._table = table
        self._progress = progress
        self.chunks = ChunkTable()
        self._base: Image | None = None
        self._in_base: BasePages | None = None
        self._runs = Runs()
        self._dead: list[Seen] = []
        # From here on, chunks of the table are ours.
        self._first = 0
        self._piece_first = 0
        self._piece_digests: list[bytearray] = []
        self._pieces: list[str] = []
        self._index_bytes = 0
        self._chunk_bytes = 0
        self._failed = False

    # Before anything is stored.

    def begin(self, base: str | None, index_memory: int) -> None:
        """See who else is there, open the base, and read what the store has."""
        others = self._lease.others()
        self._dead = [other for other in others if not other.alive]
        self._check_others(others, base)
        self._lease.wait_for(lambda other: not other.shares, _SWEEPER_WAIT_S)
        if self._objects.exists(snapshot_key(self._name)):
            raise self._taken()
        if base is not None:
            self._base = open_image(self._objects, base)
            # The table begins as that of the base, so that the slots of both are the same.
            self.chunks = self._base.chunks.copy()
            self._in_base = BasePages(self._objects, self._base, self._table)
        self._read_index(index_memory)
        self._first = self._piece_first = len(self.chunks)

    def _check_others(self, others: list[Seen], base: str | None) -> None:
        """SnapshotInUse where somebody else's work and ours exclude each other."""
        for other in others:
            holder = other.holder
            if holder.doing == "pack":  # the one that began first may go on
                hinders = holder.name == self._name and other.id < self._lease.id
            else:
                hinders = holder.name in (self._name, base)
            if other.alive and hinders:
                raise SnapshotInUse(
                    f"cannot pack {self._name!r} into {self._objects.url} now",
                    cause=f"{other} is running",
                    cure="wait until it has ended, or choose another name",
                )

    def _read_index(self, memory: int) -> None:
        """Learn the page contents of the store: the base's first, then the newest."""
        first = {layer.manifest.writer for layer in self._base.layers} if self._base else set()
        numbers = {self.chunks.digest(n): n for n in reversed(range(len(self.chunks)))}

        def rank(piece: Listed) -> tuple[bool, float]:
            return piece_writer(piece.key) not in first, -piece.modified

        pieces = sorted((p for p in self._objects.list(INDEX) if p.size < memory), key=rank)
        at_once = _PIECES_AT_ONCE if memory >= _INDEX_MEMORY else 1
        with ThreadPoolExecutor(at_once) as pool:
            for at in range(0, len(pieces), at_once):
                self._lease.renew()
                for data in pool.map(self._piece, pieces[at : at + at_once]):
                    with contextlib.suppress(FormatError):  # without it the pack shares less
                        for indexed in index.decode(data):
                            rows = _CHUNK_ROW * (len(self.chunks) - len(numbers))
                            if self._table.memory + rows >= memory or rows >= memory // 4:
                                return
                            self._learn(indexed, numbers)

    def _piece(self, piece: Listed) -> bytes:
        try:
            return self._objects.get(piece.key, most=index.MOST_STORED)
        except (FormatError, NoSuchObject):
            return b""

    def _learn(self, indexed: index.IndexedChunk, numbers: dict[bytes, int]) -> None:
        count = len(indexed.pages) // DIGEST
        number = numbers.get(indexed.digest, -1)
        if number < 0:
            if self.chunks.slots + count > MOST_SLOTS // 2:
                return
            number = self.chunks.append(indexed.digest, indexed.stored_length, count)
        elif self.chunks.pages(number) != count:
            return
        elif self._in_base:
            self._in_base.knows(number)
        slot = self.chunks.starts[number]
        for at in range(0, len(indexed.pages), DIGEST):
            self._table.find_or_add(indexed.pages[at : at + DIGEST], slot)
            slot += 1

    # Storing.

    def store(self, writer: ChunkWriter, chunk_size: int, order: Sequence[int] | None) -> None:
        """Read all pages and store those that are new."""
        self._writer = writer
        try:
            classifier = Classifier(
                self._table,
                self.chunks,
                chunk_size,
                self._seal,
                self._in_base.slot if self._in_base else None,
            )
            self._runs = classifier.runs
            runs: Iterator[Run] | list[Run] = self._pages.runs()
            if order:
                runs = list(runs)
                self._store_early(classifier, runs, order)
            self._store_runs(classifier, runs)
            classifier.finish()
            self._end_piece()
        finally:
            writer.close()
            self._chunk_bytes = writer.stored_bytes

    def _store_early(self, classifier: Classifier, runs: list[Run], order: Sequence[int]) -> None:
        """The pages of a working set, of those that hold data."""
        data = bytearray(pages_of(self._pages.length))
        for run in runs:
            if run.holds is Holds.DATA:
                data[run.first : run.first + run.pages] = b"\1" * run.pages
        for page in order:
            if not 0 <= page < len(data):
                raise UsageError(
                    f"page {page} is to be stored first, of an image of {len(data)} pages",
                    cure="give the working set of this image",
                )
            if data[page]:
                classifier.early(page, bytes(self._pages.read(page, 1)))

    def _store_runs(self, classifier: Classifier, runs: Iterator[Run] | list[Run]) -> None:
        total = pages_of(self._pages.length)
        for first, pages, holds in runs:
            if holds is Holds.DATA:
                for page in range(first, first + pages, _BLOCK):
                    count = min(_BLOCK, first + pages - page)
                    classifier.pages(page, bytes(self._pages.read(page, count)))
                    self._lease.renew()
                    self._tell(page + count, total)
            elif holds is Holds.BASE:
                self._as_in_base(classifier, first, pages)
            else:
                classifier.runs.append(pages, ZERO if holds is Holds.ZERO else HOLE)
            self._tell(first + pages, total)

    def _as_in_base(self, classifier: Classifier, first: int, pages: int) -> None:
        if self._base is None:
            raise UsageError(
                f"cannot pack {self._name!r} without a base",
                cause="the input has only the pages that changed",
                cure="name the snapshot that they changed from as the base",
            )
        inside = min(pages, max(0, self._base.pages - first))
        # The image may end within a page of which the base has more: it ends in zeros.
        end = self._pages.length
        cut = inside > 0 and first + inside == pages_of(end) and end < self._base.length
        classifier.runs.append(inside - cut, PARENT)
        if cut and self._in_base is not None:
            last = first + inside - 1
            kept = self._in_base.read(last)[: end - last * PAGE]
            classifier.pages(last, kept.ljust(PAGE, b"\0"))
        classifier.runs.append(pages - inside, ZERO)

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)

    def _seal(self, number: int, raw: bytearray, digests: bytearray) -> None:
        """A chunk is full."""
        self._writer.submit(number, raw)
        self._piece_digests.append(digests)
        if self.chunks.slots - self.chunks.starts[self._piece_first] >= index.PIECE_PAGES:
            self._end_piece()

    def _end_piece(self) -> None:
        """Write a piece of the index, when its chunks are durable: it must never promise more."""
        self._writer.drain()
        self._objects.flush()
        if not self._piece_digests:
            return
        data = index.encode(
            index.IndexedChunk(
                self.chunks.digest(number), self.chunks.stored_length(number), bytes(digests)
            )
            for number, digests in enumerate(self._piece_digests, self._piece_first)
        )
        key = index.piece_key(self._lease.id, len(self._pieces))
        self._pieces.append(key)
        self._objects.put(key, data)
        self._index_bytes += len(data)
        self._piece_first = len(self.chunks)
        self._piece_digests = []

    # The manifest.

    def commit(self) -> Packed:
        """Everything is stored: write the manifest, and there is a snapshot."""
        about = self._pages.finish()
        runs, base = self._runs, None
        if self._base is not None:
            runs = unchanged_to_parent(runs, self._base.runs)
            base = Base(self._base.name, self._base.digest)
        runs, chunks = only_used(runs, self.chunks)
        self._check_shared(chunks)
        made = Manifest(
            length=self._pages.length,
            kind=self._pages.kind,
            created=int(time.time()),
            runs=runs,
            chunks=chunks,
            base=base,
            regions=tuple(self._pages.regions),
            about=about,
            writer=self._lease.id,
        )
        data = manifest.encode(made)
        manifest.decode(data, f"the manifest of {self._name!r}")  # what no reader takes is no pack
        self._check_layers(made)
        self._objects.flush()
        self._lease.check()
        # Some object stores cannot put an object only if it is new: look once more.
        self._check_others(self._lease.others(), None)
        if self._objects.exists(snapshot_key(self._name)):
            raise self._taken()
        self._put(data)
        return self._packed(made, data)

    def _check_layers(self, made: Manifest) -> None:
        """UsageError where nobody would open it for what it lies on."""
        if self._base is None:
            return
        try:
            check_layers(self._name, [made, *(layer.manifest for layer in self._base.layers)])
        except FormatError as error:
            raise UsageError(
                f"cannot pack {self._name!r} on {self._base.name!r}",
                cause=f"{error.what}: {error.cause}",
                cure=f"`userfault squash {self._base.name} --to NAME`, and pack on that",
            ) from None

    def _check_shared(self, chunks: ChunkTable) -> None:
        """StoreError where a chunk that the index promised is not in the store."""
        old = len(chunks) - (len(self.chunks) - self._first)
        if not old:
            return
        with ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
            found = pool.map(lambda n: self._is_there(chunks, n), range(old))
            gone = [chunks.digest(n).hex() for n, there in enumerate(found) if not there]
        if gone:
            raise StoreError(
                f"{len(gone)} chunks that the index of {self._objects.url} names are gone",
                cause=f"somebody removed them, {gone[0]} for one",
                cure="`userfault gc` mends the index, `userfault verify` says which snapshots "
                "have lost them; then pack again",
            )

    def _is_there(self, chunks: ChunkTable, number: int) -> bool:
        self._lease.renew()
        try:
            size = self._objects.size(chunk_key(chunks.digest(number)))
        except NoSuchObject:
            return False
        return size == chunks.stored_length(number)

    def _put(self, data: bytes) -> None:
        key = snapshot_key(self._name)
        try:
            self._objects.put(key, data, new=True)
        except AlreadyThere:
            # A request may have come through whose answer was lost, and was made again.
            if self._objects.get(key, most=manifest.MOST_STORED) != data:
                raise self._taken() from None
        except StoreFull:
            raise
        except StoreError:
            # It may still come through: what it refers to must stay, until `gc` knows.
            self._first = len(self.chunks)
            self._pieces = []
            raise
        try:
            self._lease.check()
        except StoreError:
            self._objects.delete([key])
            raise

    def _taken(self) -> SnapshotInUse:
        return SnapshotInUse(
            f"there is a snapshot {self._name!r} in {self._objects.url} already",
            cause="a name means one image, for ever: other snapshots may lie on it",
            cure="choose another name, or remove that one first",
        )

    def _packed(self, made: Manifest, data: bytes) -> Packed:
        pages = [0] * (CHUNK + 1)
        shared = 0
        first = self._first_slot(made)
        for count, kind, value in made.runs:
            pages[kind] += count
            if kind == CHUNK:
                shared += max(0, min(value + count, first) - value)
        stored = made.chunks.slots - first
        return Packed(
            name=self._name,
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
            chunks=len(self.chunks) - self._first,
            chunk_bytes=self._chunk_bytes,
            manifest_bytes=len(data),
            index_bytes=self._index_bytes,
        )

    def _first_slot(self, made: Manifest) -> int:
        """The slot from which on chunks of the manifest are ours."""
        return made.chunks.starts[len(made.chunks) - (len(self.chunks) - self._first)]

    # Afterwards.

    def failed(self) -> None:
        """What this pack stored is to go."""
        self._failed = True

    def clean(self) -> None:
        """Remove what this pack, if it failed, and those that were killed have left behind.

        Not while anybody else is there, who may refer to it: then `gc` will.
        """
        mine = range(self._first, len(self.chunks)) if self._failed else range(0)
        if not mine and not self._dead:
            return
        self._lease.to_sweeper()
        if self._lease.alive():
            return
        self._objects.delete(self._pieces if self._failed else [])
        dead = {other.id for other in self._dead}
        self._objects.delete(
            [piece.key for piece in self._objects.list(INDEX) if piece_writer(piece.key) in dead]
        )
        sweep(self._objects, self._leftovers(mine), renew=self._lease.renew)
        for other in self._dead:
            self._lease.bury(other)

    def _leftovers(self, mine: range) -> Iterator[Listed]:
        for number in mine:
            if self.chunks.stored_length(number):  # it came as far as the store
                key = chunk_key(self.chunks.digest(number))
                yield Listed(key, self.chunks.stored_length(number), 0.0)
        if self._dead:
            since = min(other.since for other in self._dead) - _CLOCK_SLACK
            for listed in self._objects.list(CHUNKS):
                if listed.modified >= since:
                    yield listed
