"""`lazy()`: memory that fills itself on first touch."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import mmap
import os
import select
import signal
import time
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from userfault.api.interrupts import listen, signal_log
from userfault.api.loading import load
from userfault.api.options import Options, Stored, part_of
from userfault.api.pager import Pager
from userfault.api.registering import register
from userfault.api.undisturbed import Tie, undisturbed
from userfault.kernel.errors import (
    FaultOverdue,
    KernelError,
    PageExists,
    PagerError,
    SourceError,
    TryAgain,
    UsageError,
    UserfaultError,
)
from userfault.kernel.memtypes import BASE_PAGE, Memory, MemoryType, round_up
from userfault.kernel.memtypes import memory as named_memory
from userfault.kernel.modes import Feature
from userfault.kernel.numbers import real, whole
from userfault.linux import libc, place
from userfault.linux.lifeline import LifeLine
from userfault.linux.memory import FileBacking, Recipe, mapped, refusal
from userfault.linux.refused import calling
from userfault.linux.uffd import LiveUserfaultfd
from userfault.linux.unpatched import original
from userfault.pager.core.plan import Counters
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import CACHED, FILLING, MISSING, NAMES, UNSETTLED, Pages
from userfault.pager.drivers import messages
from userfault.snapshot.counts import Counts
from userfault.snapshot.place import place_of
from userfault.source.spec import FileSpec, Resolved, resolve
from userfault.uapi import mman

# Without these the pager would not learn what the client does to the memory.
_NEEDED = Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP
_PROGRESS_S = 0.1
_POISON_TRIES = 10_000  # each gets past a page that is there, or past an event

Progress = Callable[[int, int], None]


class Statistics(msgspec.Struct, frozen=True):
    """How a lazy memory stands.

    `pages`: all of them, of `page_size` bytes.  `states`: how many pages are in each state.
    `counters`: what the pager did (see `userfault.pager.core.plan.Counters`).  `copied_bytes`:
    bytes of the source copied to hand it over (bytes-like sources only).  `failed`: pages given
    up.  `finished`: everything is in and the pager has let go.  `user_mode_only`: system calls on
    missing pages fail with EFAULT until then.  `pager_memory`: bytes of private memory of each
    process of the pager.  `takeovers`: how often one of them went on for one that was killed.
    `pager_cpu_s`: CPU time that the pager's worker has used so far, for all that it serves;
    `pager_polled_s`: of that, spent on waiting for the next fault without sleeping.
    `overdue`: the faults that waited for longer than the policy's `fault_deadline_s` (the first
    16; `counters.overdue` has their number), as they were then.  `waiting`: how many of them wait
    still.  `most_in_flight`: reads of sources under way at once, of all mappings of the pager, at
    the highest.  `store`: for a snapshot in a store, what was read of it (see
    `userfault.snapshot.counts.Counts`).
    """

    memory: str
    pages: int
    page_size: int
    states: dict[str, int]
    counters: Counters
    copied_bytes: int
    failed: int
    finished: bool
    user_mode_only: bool
    pager_pid: int
    pager_memory: dict[str, int]
    takeovers: int
    pager_cpu_s: float
    pager_polled_s: float
    overdue: list[messages.Waited]
    waiting: int
    most_in_flight: int
    store: Counts | None = None


class LazyMemory(mmap.mmap):
    """Memory filled on first touch: a `mmap.mmap`, so NumPy and memoryview use it without copies.

    Made by `lazy()`.  `len()` is the source's length; the rest of the last page reads zero.
    """

    memory: Memory
    address: int
    page_size: int
    user_mode_only: bool
    _parts: _Parts
    _first_to_go: _Attribute

    def complete(self, timeout: float | None = None, progress: Progress | None = None) -> None:
        """Fill everything and wait for it; then the pager lets go of the memory.

        `progress(pages_done, pages)` is called now and then.  Raises SourceError for pages that
        were given up, TimeoutError after `timeout` seconds, PagerError when the pager has died.
        """
        timeout = None if timeout is None else real("timeout", timeout)
        self._parts.at_home()
        if not self._parts.finished:
            self._parts.request(messages.Complete(self._parts.number))
        if not self.wait(timeout, progress):
            raise TimeoutError(f"not complete after {timeout} s")
        self.check()

    def wait(self, timeout: float | None = None, progress: Progress | None = None) -> bool:
        """Wait until everything is in; False if it is not after `timeout` seconds.

        Without background fill only touches and `prefetch` bring pages in.
        """
        self._parts.at_home()
        return self._parts.wait(None if timeout is None else real("timeout", timeout), progress)

    def prefetch(self, start: int, stop: int) -> None:
        """Ask for bytes [start, stop) soon; returns at once."""
        start, stop = whole("start", start), whole("stop", stop)
        if not 0 <= start < stop <= len(self):
            raise UsageError(
                f"prefetch({start}, {stop})",
                cause=f"not a range within {len(self)} bytes",
                cure="pass byte offsets with start < stop",
            )
        self._parts.at_home()
        first = start // self.page_size
        count = -(-stop // self.page_size) - first
        if not self._parts.finished:
            self._parts.request(messages.Prefetch(self._parts.number, first, count))

    def check(self) -> None:
        """Raise SourceError if pages were given up, PagerError if the pager died before its end,
        FaultOverdue (a PagerError) while threads wait for longer than the policy's deadline."""
        self._parts.at_home()
        self._parts.check()

    @property
    def page_states(self) -> mmap.mmap:
        """One byte a page, read-only and always current: `userfault.pager.core.states`.

        Raises UsageError once the memory is closed.
        """
        if self._parts.states is None:
            raise UsageError("page_states", cause="the memory is closed", cure="look before")
        return self._parts.states

    def statistics(self) -> Statistics:
        """How it stands now."""
        self._parts.at_home()
        return self._parts.statistics(self.memory, self.user_mode_only)

    def resize(self, newsize: int) -> None:
        """Not to be had: the pager serves a fixed range."""
        raise UsageError(
            f"resize({newsize}) of lazily filled memory",
            cause="its size is the source's",
            cure="complete() it and copy it, or map anew",
        )

    def close(self) -> None:
        """Let go of the memory: unfilled pages are dropped, or, while views of it live, filled
        (or poisoned, by policy `on_exit`) first; the mapping then goes with its last view.
        """
        parts = self._parts
        if parts.is_parents:
            self._close_in_child()
        elif not parts.closed and not undisturbed(self._unmap):
            try:
                self._keep_for_views()
            finally:
                undisturbed(parts.close)

    def __enter__(self) -> LazyMemory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _unmap(self) -> bool:
        """Unmap it and let go of everything; False where views keep it."""
        parts = self._parts
        if not parts.pager.alive:
            # Nobody reads events any more: munmap would wait for ever for one to be read.
            parts.poison_rest(self.address, self.page_size)
            parts.let_go()
        try:
            super().close()
        except BufferError:
            return False
        parts.unmap_rest(self.address)
        parts.close()
        if parts.tie is not None:
            parts.tie.cancel()
        return True

    def _close_in_child(self) -> None:
        """Unmap what this process has at the address, if it has it from its parent."""
        parts = self._parts
        parts.leave_to_parent()
        if parts.place_is_ours:
            with contextlib.suppress(BufferError):
                super().close()
                if parts.inherited:
                    parts.unmap_rest(self.address)

    def _keep_for_views(self) -> None:
        """Views live on: what they show must be right (or poison) for as long as they do."""
        parts = self._parts
        if parts.finished or not parts.pager.alive:
            return
        if parts.policy.on_exit == "poison":
            parts.give_up("the memory was left with views alive (policy on_exit=poison)")
            return
        try:
            parts.request(messages.Complete(parts.number))
            if not parts.wait(parts.policy.patience_s, None):
                parts.give_up(f"not complete after {parts.policy.patience_s} s of patience")
        except BaseException:  # Ctrl-C included: never leave pages that nobody fills
            parts.give_up("completing the memory was interrupted")
            raise


class _Attribute:
    """Something that goes with the object that it is an attribute of."""


class _Parts:
    """What a lazy memory holds besides the mapping: descriptors, the pager, the states."""

    def __init__(
        self, pager: Pager, owned: bool, policy: Policy, recipe: Recipe, *, inherited: bool
    ) -> None:
        self.pager = pager
        self.owner = os.getpid()
        self.inherited = inherited  # children of fork(2) have the memory, too
        self.left = False  # this process is such a child, and has left all to its parent
        self.place_is_ours = True
        self.owned = owned  # the pager is this memory's alone
        self.policy = policy
        self.recipe = recipe
        self.number = pager.number()
        self.address = self.length = 0  # of the memory
        self.pages = 0
        self.copied = 0
        self.uffd: LiveUserfaultfd | None = None
        self.lifeline: LifeLine | None = None
        self.states: mmap.mmap | None = None
        with calling("eventfd2"):
            self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.closed = False
        self.tie: Tie | None = None
        self.memory: Callable[[], LazyMemory | None] = lambda: None
        self._last: messages.Answer | None = None

    @property
    def finished(self) -> bool:
        """Whether the pager has said that everything is in."""
        return self.closed or _readable(self.event, 0)

    @property
    def is_parents(self) -> bool:
        """Whether this process was forked from the one that made the memory."""
        return self.left or os.getpid() != self.owner

    def at_home(self) -> None:
        """Raise PagerError in a forked child."""
        if self.is_parents:
            raise PagerError(
                "the memory belongs to another process",
                cause="this process was forked from the one that made it",
                cure="ask there; or call lazy() here",
            )

    def request(self, message: messages.Request) -> object:
        return self.pager.request(message)

    def wait(self, timeout: float | None, progress: Progress | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if progress is not None:
                progress(self.settled(), self.pages)
            if self.finished:
                return True
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            step = min(_PROGRESS_S if progress else 60.0, 60.0 if left is None else left)
            _readable(self.event, step, self.pager.channel)
            if not self.pager.alive and not self.finished:
                self.check()

    def settled(self) -> int:
        """Pages that need nothing more."""
        if self.states is None:
            return self.pages
        held = self.states[0 : self.pages]
        return self.pages - sum(held.count(bytes([state])) for state in UNSETTLED)

    def ask(self) -> messages.Answer | None:
        """The pager's answer; its last one where it cannot answer any more."""
        if not self.closed:
            with contextlib.suppress(PagerError):
                answer = self.request(messages.Ask(self.number))
                if isinstance(answer, messages.Answer):
                    self._last = answer
        return self._last

    def check(self) -> None:
        answer = self.ask()
        if not self.finished and not self.pager.alive:
            raise PagerError(
                "the pager has died before all pages were in",
                cause="its processes were killed together, or it failed",
                cure="restore again: pages that were not filled are lost",
            )
        if answer is not None and answer.failed:
            first = answer.failures[0]
            raise SourceError(
                f"{answer.failed} page{'s' * (answer.failed > 1)} given up, the first at offset"
                f" {first.offset:#x}",
                offset=first.offset,
                cause=first.cause,
                cure=first.cure,
            )
        if answer is not None and answer.waiting:
            last = answer.overdue[-1]
            raise FaultOverdue(
                f"{answer.waiting} fault{'s' * (answer.waiting > 1)} waiting for too long, the last"
                f" told of at {last.address:#x} (offset {last.offset:#x} of {last.source})",
                cause=f"after {last.age_s:.1f} s it waited for {last.waits_for}",
                cure="statistics().overdue has them; they go on waiting (policy on_overdue)",
            )

    def statistics(self, memory: Memory, user_mode_only: bool) -> Statistics:
        answer = self.ask()
        held = self.states[0 : self.pages] if self.states is not None else b""
        return Statistics(
            memory=str(memory),
            pages=self.pages,
            page_size=memory.page_size,
            states={name: held.count(bytes([state])) for state, name in enumerate(NAMES)},
            counters=answer.counters if answer else Counters(),
            copied_bytes=self.copied,
            failed=answer.failed if answer else 0,
            finished=self.finished,
            user_mode_only=user_mode_only,
            pager_pid=self.pager.processes()["worker"],
            pager_memory=self.pager.memory(),
            takeovers=self.pager.takeovers,
            pager_cpu_s=answer.cpu_s if answer else 0.0,
            pager_polled_s=answer.polled_s if answer else 0.0,
            overdue=answer.overdue if answer else [],
            waiting=answer.waiting if answer else 0,
            most_in_flight=answer.most_in_flight if answer else 0,
            store=answer.store if answer else None,
        )

    def give_up(self, cause: str) -> None:
        with contextlib.suppress(PagerError):
            self.request(messages.GiveUp(self.number, cause))

    def poison_rest(self, address: int, page_size: int) -> None:
        """The pager is dead: what it did not fill must not read zero through a view that lives on.

        Kernels before 6.6 have no poison; there it does read zero.
        """
        uffd, states = self.uffd, self.states
        if self.finished or uffd is None or states is None or Feature.POISON not in uffd.offered:
            return
        for state in (MISSING, FILLING, CACHED):
            for page, count in Pages(states, self.pages).runs(0, self.pages, state):
                start = address + page * page_size
                _poison(uffd, start, start + count * page_size, page_size)

    def let_go(self) -> None:
        """Close our duplicate of the userfaultfd and the life line, in peace."""
        if self.lifeline is not None:
            self.lifeline.disarm()
            self.lifeline.close()
            self.lifeline = None
        if self.uffd is not None:
            self.uffd.close()
            self.uffd = None

    def unmap_rest(self, address: int) -> None:
        """Unmap huge pages whose last one is not full, which `mmap.close()` has left mapped.

        (The kernel refuses to unmap a part of a huge page, EINVAL.)
        """
        if self.length % self.recipe.memory.page_size and self.recipe.memory.page_size > BASE_PAGE:
            with contextlib.suppress(OSError):
                libc.munmap(address, self.recipe.length)

    def end(self, *, gone: bool) -> None:
        """The object is about to go (`gone`), or the program ends."""
        self.close()
        if gone:
            place.clear_rest(self.address, self.length, self.recipe.length)

    def forked(self) -> None:
        """In a child of fork(2)."""
        self.leave_to_parent()

    def leave_to_parent(self) -> None:
        """In a child of fork(2): close our copies of the descriptors, before the program can put
        others in their places, and keep the addresses, at which nothing is, from others."""
        if self.left:
            return
        closed, self.left, self.closed = self.closed, True, True
        if not self.inherited:
            self.place_is_ours = place.keep(self.address, self.recipe.length)
            if not self.place_is_ours:
                place.keep_alive(self.memory())  # it would unmap what lies there
        if closed:  # but views keep it
            return
        with contextlib.ExitStack() as end:
            end.callback(self.recipe.leave)
            end.callback(os.close, self.event)
            if self.states is not None:
                end.callback(self.states.close)
                self.states = None
            if self.lifeline is not None:
                end.callback(self.lifeline.close)
            if self.uffd is not None:
                end.callback(self.uffd.close)

    def close(self) -> None:
        """End what is left: the pager forgets the mapping; one of our own ends.  Idempotent."""
        if self.closed:
            return
        self.ask()
        self.closed = True
        with contextlib.ExitStack() as end:  # every step runs, also after a Ctrl-C in another
            end.callback(self.recipe.close)
            end.callback(os.close, self.event)
            if self.states is not None:
                end.callback(self.states.close)
                self.states = None
            if self.owned:
                end.callback(self.pager.close)
            end.callback(self._detach)
            # First: a fork(2) of another thread may have an event in the queue.  As long as the
            # pager has the userfaultfd it is read, and closed by the pager as the last one it is
            # called off.  With ours still open nobody would do either, and that fork would sleep,
            # with the locks of the C library that we may need to come here.
            self.let_go()

    def _detach(self) -> None:
        with contextlib.suppress(PagerError):
            self.request(messages.Detach(self.number))

    def abandon(self) -> None:
        """The pager never took the mapping: close what was made for it."""
        self.closed = True
        if self.states is not None:
            self.states.close()
        os.close(self.event)


def lazy(
    source: Any,
    *,
    memory: str | Memory = "anon",
    page_size: int | None = None,
    writable: bool = False,
    length: int | None = None,
    offset: int = 0,
    policy: Policy | None = None,
    pager: Pager | None = None,
    fork: bool = False,
    grow_pool: bool = False,
    prepared: bool = False,
    user_mode_only: bool | None = None,
    store2: str | None = None,
    cache: str | None = None,
    cache_size: int | None = None,
) -> LazyMemory:
    """Memory that shows `source` and fills itself on first touch.

    `source`: a path, an open file or memfd, bytes-like, `zero(length)`, a function (a module's,
    `"package.module:name"` with `length=`, or `function(...)`), or a snapshot in a store
    (`"s3://bucket/prefix/name"`, `"/path/of/store/name"`).  `memory`: `anon`, `shmem`,
    `shmem-private`, `hugetlb`, `hugetlb-private` or `guest_memfd`; `page_size` in bytes.
    `writable`: writes stay private to the memory.  `length`, `offset`: which bytes of the source.
    `policy`: see `Policy`.  `pager`: a shared `Pager`; by default the memory has one of its own.
    `fork`: forked children are served too (needs CAP_SYS_PTRACE); otherwise they do not inherit
    the memory and get SIGSEGV.  `grow_pool`: enlarge the hugetlb pool as needed, and put it back
    (root).  `prepared`: the source is a memfd that *is* the memory: its pages are mapped without
    a copy (shmem only).  `user_mode_only`: see docs/privileges.md.

    For snapshots: `store2`, another store with the same chunks, asked where the first one fails;
    `cache`, a folder that keeps `cache_size` bytes of what was read from a remote store, for all
    who name it ("": none; by default the user's cache folder, or USERFAULT_CACHE).

    A function is loaded before anything is returned, in the process that will call it; its module
    is not imported here.

    Raises UsageError, SourceTypeError or SourceError for the source (StoreError, NoSuchSnapshot or
    FormatError for a snapshot), Unavailable for what this
    system lacks (OpenRefused, FeatureMissing, MemoryUnavailable, RegistrationRefused), PagerError
    for the pager.

    >>> with lazy(b"0123456789" * 1000) as mapped:
    ...     bytes(mapped[10:20])
    b'0123456789'
    """
    chosen = named_memory(memory, page_size)
    stored = Stored.of(store2, cache, cache_size)
    options = Options(chosen, writable, fork, grow_pool, prepared, user_mode_only)

    def make() -> LazyMemory:
        resolved = _resolve(source, *part_of(length, offset), stored)
        with contextlib.ExitStack() as undo:
            undo.callback(resolved.close)
            try:
                return _build(resolved, options, policy or Policy(), pager, undo)
            except UserfaultError:
                raise
            except OSError as error:  # a descriptor, a memfd or a mapping that was not to be had
                raise refusal(chosen, resolved.spec.length, error) from error

    listen()
    return undisturbed(make)


def _resolve(source: Any, length: int | None, offset: int, stored: Stored) -> Resolved:
    """The source, which a path or URL may name as a snapshot."""
    place = None
    if isinstance(source, str | os.PathLike):
        place = place_of(os.fsdecode(source))
    if place is not None:
        # It brings zstd and BLAKE3 along: programs that restore from files never pay for them.
        from userfault.snapshot import serving  # noqa: PLC0415

        options = msgspec.structs.asdict(stored)
        return serving.resolve(*place, length=length, offset=offset, **options)
    if stored != Stored(None, None, None):
        raise UsageError(
            "store2=, cache= and cache_size=",
            cause="they are for snapshots in a store, and the source is none",
            cure="leave them out, or name a snapshot: s3://bucket/prefix/name, /path/store/name",
        )
    return resolve(source, length=length, offset=offset)


def _build(
    resolved: Resolved,
    options: Options,
    policy: Policy,
    pager: Pager | None,
    undo: contextlib.ExitStack,
) -> LazyMemory:
    """Open, map, register, hand over; `undo` takes it all back if any of it fails."""
    _say_where_it_ends()
    spec = resolved.spec
    uffd = _open(options)
    undo.callback(uffd.close)
    recipe, made = _map(options, resolved)
    undo.callback(recipe.close)
    undo.callback(mmap.mmap.close, made)
    # Once more, to be undone before the mapping: munmap of registered memory waits until its
    # event is read, and nobody reads it yet.
    undo.callback(uffd.close)
    made.user_mode_only = uffd.user_mode_only
    # Nobody reads the event of another thread's fork(2) until the pager has the userfaultfd, and
    # that fork would sleep with locks of the C library that we need to come there.  So children
    # get the memory from the hand-over on.  (Linux 7.2 refuses MADV_DOFORK of hugetlb.)
    later = options.fork and recipe.memory.type is not MemoryType.HUGETLB
    if later or not options.fork:
        libc.madvise(made.address, recipe.length, mman.MADV_DONTFORK)
    register(uffd, made.address, recipe, prepared=options.prepared)
    owned = pager is None
    serving = pager or Pager()
    with contextlib.ExitStack() as undo_pager:
        if owned:
            undo_pager.callback(serving.close)
        parts = _Parts(serving, owned, policy, recipe, inherited=options.fork)
        undo_pager.callback(parts.abandon)
        load(serving, parts.number, resolved, policy, recipe.memory)
        _attach(parts, made, uffd, resolved, options)
        if later:
            libc.madvise(made.address, recipe.length, mman.MADV_DOFORK)
        undo_pager.pop_all()
    parts.address, parts.length = made.address, spec.length
    made._parts = parts
    # An object's attributes go before its memory is unmapped, what is tied to itself goes after.
    made._first_to_go = _Attribute()
    parts.tie = Tie(made._first_to_go, parts)
    parts.memory = weakref.ref(made)
    undo.pop_all()
    resolved.close()
    return made


def _say_where_it_ends() -> None:
    """Have a SIGBUS tell on standard error which line was waiting.

    No Python code can run while a thread sleeps in a fault; faulthandler's is C.  Whoever handles
    SIGBUS keeps their handler.
    """
    if not faulthandler.is_enabled() and signal.getsignal(signal.SIGBUS) == signal.SIG_DFL:
        faulthandler.enable(2)


def _open(options: Options) -> LiveUserfaultfd:
    needed = _NEEDED | (Feature.EVENT_FORK if options.fork else Feature(0))
    return LiveUserfaultfd.open(
        needed, user_mode_only=options.user_mode_only, optional=Feature.THREAD_ID
    )


def _map(options: Options, resolved: Resolved) -> tuple[Recipe, LazyMemory]:
    """Map it as a `mmap.mmap` of exactly the source's length (the kernel maps whole pages)."""
    length = resolved.spec.length
    protection = mman.PROT_READ | (mman.PROT_WRITE if options.writable else 0)

    def map_it(recipe: Recipe) -> LazyMemory:
        with calling("mmap"):
            made = LazyMemory(recipe.fd, length, flags=recipe.flags, prot=protection)
        with libc.Pinned(made) as pinned:
            made.address = pinned.address
        made.memory = recipe.memory
        made.page_size = recipe.memory.page_size
        return made

    if options.prepared:
        recipe = _prepared(options.memory, resolved)
        return recipe, map_it(recipe)
    return mapped(
        options.memory, length, map_it, grow_pool=options.grow_pool, name="userfault-memory"
    )


def _prepared(memory: Memory, resolved: Resolved) -> Recipe:
    """Memory that is the source's own file."""
    spec = resolved.spec
    if not isinstance(spec, FileSpec) or memory.type is not MemoryType.SHMEM or spec.offset:
        raise UsageError(
            "prepared memory",
            cause="only a memfd, from its first byte on, can be its own memory",
            cure='pass the memfd as source with memory="shmem" (or shmem-private)',
        )
    flags = mman.MAP_SHARED if memory.shared else mman.MAP_PRIVATE
    whole = round_up(spec.length, memory.page_size)
    return Recipe(memory, whole, flags, FileBacking(os.dup(resolved.fd), whole))


def _attach(
    parts: _Parts,
    made: LazyMemory,
    uffd: LiveUserfaultfd,
    resolved: Resolved,
    options: Options,
) -> None:
    """Hand the descriptors to the pager; from its reply on, faults are served."""
    recipe = parts.recipe
    parts.pages = recipe.length // recipe.memory.page_size
    parts.copied = resolved.spec.copied if isinstance(resolved.spec, FileSpec) else 0
    with contextlib.ExitStack() as undo:
        with calling("memfd_create"):
            states = os.memfd_create("userfault-states", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        undo.callback(os.close, states)
        line = LifeLine.for_this_process()
        with contextlib.ExitStack() as undo_line:
            undo_line.callback(line.close)
            undo_line.callback(line.disarm)
            with calling("ftruncate"):
                os.ftruncate(states, parts.pages)
            with calling("fcntl(F_ADD_SEALS)"):
                fcntl.fcntl(states, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            with calling("mmap"):
                parts.states = mmap.mmap(states, parts.pages, prot=mmap.PROT_READ)
            fds = [uffd.fileno(), states, parts.event, line.read, line.write]
            fds += [fd for fd in (resolved.fd, recipe.fd) if fd >= 0]
            log = signal_log()
            fds += [log] if log >= 0 else []
            request = _attach_request(parts, made, uffd, resolved, options, has_signals=log >= 0)
            parts.pager.request(request, fds)
            undo_line.pop_all()
    line.close_writer()
    parts.lifeline = line
    parts.uffd = uffd


def _attach_request(
    parts: _Parts,
    made: LazyMemory,
    uffd: LiveUserfaultfd,
    resolved: Resolved,
    options: Options,
    *,
    has_signals: bool,
) -> messages.Attach:
    memory = parts.recipe.memory
    return messages.Attach(
        number=parts.number,
        start=made.address,
        pages=parts.pages,
        page_size=memory.page_size,
        shared=memory.shared,
        zeropage=memory.traits.zeropage,
        exists_is_ambiguous=memory.traits.exists_is_ambiguous,
        has_poison=Feature.POISON in uffd.offered,
        prepared=options.prepared,
        has_source=resolved.fd >= 0,
        has_memory=parts.recipe.fd >= 0,
        source=resolved.spec,
        policy=parts.policy,
        has_signals=has_signals,
    )


def _poison(uffd: LiveUserfaultfd, start: int, end: int, page_size: int) -> None:
    """Poison the empty pages of [start, end), as far as the kernel lets us."""
    for _ in range(_POISON_TRIES):
        try:
            uffd.poison(start, end - start)
            return
        except TryAgain as error:  # part of it is done, or an event that nobody read is pending
            start = error.resume
            uffd.read()
        except PageExists as error:
            start = error.resume + page_size
        except KernelError:
            return
        if start >= end:
            return


def _readable(fd: int, timeout_s: float, *others: int) -> bool:
    """Wait until `fd` is readable or one of `others` hangs up; whether `fd` is readable."""
    poll = original("select", "poll")()
    poll.register(fd, select.POLLIN)
    for each in others:
        poll.register(each, 0)
    return any(ready == fd for ready, _ in poll.poll(max(timeout_s, 0) * 1000))
