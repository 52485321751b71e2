"""`lazy()`: memory that fills itself on first touch, and how it is made."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import mmap
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from userfault.api import beforehand, sharing, tracing, working_sets  # noqa: F401
from userfault.api.budget import Budget, decide, spill_file
from userfault.api.interrupts import listen, signal_log
from userfault.api.loading import load
from userfault.api.mapping import map_it
from userfault.api.memory import Attribute, LazyMemory
from userfault.api.options import Options, Stored, part_of
from userfault.api.pager import Pager
from userfault.api.parts import Parts
from userfault.api.registering import register
from userfault.api.undisturbed import Tie, undisturbed
from userfault.kernel.errors import (
    UsageError,
    UserfaultError,
)
from userfault.kernel.memtypes import Memory, MemoryType
from userfault.kernel.modes import Feature
from userfault.linux import libc
from userfault.linux.lifeline import LifeLine
from userfault.linux.memory import Recipe, refusal
from userfault.linux.refused import calling
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.processes.lean import READING
from userfault.pager.drivers.shared.asking import Grant
from userfault.pager.drivers.wire import messages
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import FileSpec, Resolved, StoreSpec, resolve
from userfault.uapi import mman

# Without these the pager would not learn what the client does to the memory.
_NEEDED = Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP


def lazy(
    source: Any,
    *,
    memory: str | Memory | None = None,
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
    working_set: str | os.PathLike[str] | None = None,
    track: bool = False,
) -> LazyMemory:
    """Memory that shows `source` and fills itself on first touch.

    `source`: a path, an open file or memfd, bytes-like, `zero(length)`, a function (a module's,
    `"package.module:name"` with `length=`, or `function(...)`), or a snapshot in a store
    (`"s3://bucket/prefix/name"`, `"/path/of/store/name"`).  `memory`: `anon`, `shmem`,
    `shmem-private`, `hugetlb`, `hugetlb-private` or `guest_memfd`; None: `anon`, or `shmem` where
    the source is more than may be resident (see docs/residency.md), or `shmem-private` where a copy
    is shared (policy `share`).  `page_size` in bytes.
    `writable`: writes stay private to the memory.  `length`, `offset`: which bytes of the source.
    `policy`: see `Policy`.  `pager`: a shared `Pager`; by default the memory has one of its own.
    `fork`: forked children are served too (needs CAP_SYS_PTRACE); otherwise they do not inherit
    the memory and get SIGSEGV.  `grow_pool`: enlarge the hugetlb pool as needed, and put it back
    (root).  `prepared`: the source is a memfd that *is* the memory: its pages are mapped without
    a copy (shmem, hugetlb).  `user_mode_only`: see docs/privileges.md.

    For snapshots: `store2`, another store with the same chunks, asked where the first one fails;
    `cache`, a folder that keeps `cache_size` bytes of what was read from a remote store, for all
    who name it ("": none; by default the user's cache folder, or USERFAULT_CACHE).

    `working_set`: a file with the pages that are touched first, which come ahead of the faults;
    where there is none yet it is recorded (policy `record`).  A snapshot in a store has its own
    beside it; "": no set is used or recorded.  See docs/working-sets.md.

    `track`: `track()` and `Snapshot` take it before it is complete (Linux 6.7; docs/tracking.md).

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
    policy = policy or Policy()
    chosen = sharing.chosen(memory, page_size, policy)
    stored = Stored.of(store2, cache, cache_size)
    fixed = memory is not None or page_size is not None
    part = part_of(length, offset)
    options = Options(
        chosen,
        writable,
        fork,
        grow_pool,
        prepared,
        user_mode_only,
        offset=part[1],
        whole=part == (None, 0),
        working_set=None if working_set is None else os.fsdecode(working_set),
        track=track,
    )

    told: list[str] = []

    def make() -> LazyMemory:
        with contextlib.ExitStack() as undo:

            def prepare() -> _Prepared:
                resolved = _resolve(source, *part, stored)
                undo.callback(resolved.close)
                return _prepared_of(resolved, options, policy, undo, fixed=fixed, tell=told.append)

            if pager is None and _place_of(source) is not None:
                prepared, own = _beside_a_start(prepare)
                undo.callback(own.close)
            else:
                prepared, own = prepare(), None
            with _refused(chosen, prepared.resolved):
                return _build(prepared, policy, pager or own, undo, owned=pager is None)

    listen()
    made = undisturbed(make)
    working_sets.warn(told)
    return made


class _Prepared(msgspec.Struct, frozen=True):
    """All that needs no pager: memory of `budget`, mapped and registered, and what comes ahead."""

    resolved: Resolved
    options: Options
    copy: Grant | None
    budget: Budget
    uffd: LiveUserfaultfd
    recipe: Recipe
    made: LazyMemory
    planned: working_sets.Planned


def _beside_a_start(prepare: Callable[[], _Prepared]) -> tuple[_Prepared, Pager]:
    """A snapshot prepared while a pager for it comes up: neither waits for the other."""
    found: list[_Prepared] = []
    own = Pager(_meanwhile=lambda: found.append(prepare()), _more=READING)
    return found[0], own


@contextlib.contextmanager
def _refused(chosen: Memory, resolved: Resolved) -> Iterator[None]:
    """What a descriptor, a memfd or a mapping that was not to be had is told as."""
    try:
        yield
    except UserfaultError:
        raise
    except OSError as error:
        raise refusal(chosen, resolved.spec.length, error) from error


def _place_of(source: Any) -> tuple[str, str] | None:
    """Store and name of a snapshot, where the source is one."""
    return place_of(os.fsdecode(source)) if isinstance(source, str | os.PathLike) else None


def _resolve(source: Any, length: int | None, offset: int, stored: Stored) -> Resolved:
    """The source, which a path or URL may name as a snapshot."""
    place = _place_of(source)
    if place is not None:
        # It brings zstd and BLAKE3 along: programs that restore from files never pay for them.
        from userfault.snapshot.serving import handover  # noqa: PLC0415

        options = msgspec.structs.asdict(stored)
        return handover.resolve(*place, length=length, offset=offset, **options)
    if stored != Stored(None, None, None):
        raise UsageError(
            "store2=, cache= and cache_size=",
            cause="they are for snapshots in a store, and the source is none",
            cure="leave them out, or name a snapshot: s3://bucket/prefix/name, /path/store/name",
        )
    return resolve(source, length=length, offset=offset)


def _prepared_of(
    resolved: Resolved,
    options: Options,
    policy: Policy,
    undo: contextlib.ExitStack,
    *,
    fixed: bool,
    tell: Callable[[str], None],
) -> _Prepared:
    """Open, map, register; `undo` takes it all back.  `fixed`: the type of memory was asked for."""
    with _refused(options.memory, resolved):
        free = not fixed and not (policy.resident_bytes or policy.resident_percent)
        copy = sharing.shared_copy(resolved, options, policy, free=free)
        if copy is not None:
            undo.callback(copy.close)
        _say_where_it_ends()
        uffd = _open(options)
        undo.callback(uffd.close)
        if copy is None:
            protects = Feature.WP_HUGETLBFS_SHMEM in uffd.offered
            budget = decide(
                policy, resolved.spec, options, fixed=fixed, protects=protects, tell=tell
            )
        else:
            budget = Budget(sharing.MEMORY)
        options = msgspec.structs.replace(options, memory=budget.memory)
        recipe, made = map_it(options, resolved, copy)
        undo.callback(recipe.close)
        undo.callback(mmap.mmap.close, made)
        # Once more, to be undone before the mapping: munmap of registered memory waits until its
        # event is read, and nobody reads it yet.
        undo.callback(uffd.close)
        made.user_mode_only = uffd.user_mode_only
        # Nobody reads the event of another thread's fork(2) until the pager has the userfaultfd,
        # and that fork would sleep with locks of the C library that we need to come there.  So
        # children get the memory from the hand-over on (`_inherited`).
        if _inherited(options, recipe) or not options.fork:
            libc.madvise(made.address, recipe.length, mman.MADV_DONTFORK)
        filled = options.prepared or copy is not None  # others may have brought pages already
        guarded = budget.evicts or options.track
        register(uffd, made.address, recipe, prepared=filled, guarded=guarded)
        planned = working_sets.plan(
            resolved,
            policy,
            path=options.working_set,
            whole=options.whole,
            offset=options.offset,
            pages=recipe.length // recipe.memory.page_size,
            page_size=recipe.memory.page_size,
            tell=tell,
        )
        undo.callback(planned.close)
    return _Prepared(resolved, options, copy, budget, uffd, recipe, made, planned)


def _inherited(options: Options, recipe: Recipe) -> bool:
    """Whether children of fork(2) get it later (Linux 7.2 refuses MADV_DOFORK of hugetlb)."""
    return options.fork and recipe.memory.type is not MemoryType.HUGETLB


def _build(
    prepared: _Prepared,
    policy: Policy,
    pager: Pager | None,
    undo: contextlib.ExitStack,
    *,
    owned: bool,
) -> LazyMemory:
    """Hand over what is prepared; `undo` takes it back if that fails.

    `owned`: the pager (None: one that is started here) is for this memory alone.
    """
    resolved, options, recipe, made = (
        prepared.resolved,
        prepared.options,
        prepared.recipe,
        prepared.made,
    )
    spec, copy = resolved.spec, prepared.copy
    serving = pager or Pager()
    with contextlib.ExitStack() as undo_pager:
        if owned:
            undo_pager.callback(serving.close)
        parts = Parts(serving, owned, policy, recipe, prepared.budget, inherited=options.fork)
        undo_pager.callback(parts.abandon)
        parts.over_copy = copy is not None
        load(serving, parts.number, resolved, policy, recipe.memory)
        parts.pages = recipe.length // recipe.memory.page_size
        _attach(parts, made, prepared.uffd, resolved, options, prepared.planned, copy)
        if _inherited(options, recipe):
            libc.madvise(made.address, recipe.length, mman.MADV_DOFORK)
        undo_pager.pop_all()
    parts.address, parts.length = made.address, spec.length
    parts.tracked = options.track
    parts.shows = spec if options.whole and isinstance(spec, StoreSpec) else None
    made._parts = parts
    # An object's attributes go before its memory is unmapped, what is tied to itself goes after.
    made._first_to_go = Attribute()
    parts.tie = Tie(made._first_to_go, parts)
    parts.memory = weakref.ref(made)
    undo.pop_all()
    resolved.close()
    prepared.planned.close()
    if copy is not None:  # the filler is for the pager alone
        copy.close()
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
    needed |= Feature.WP_ASYNC if options.track else Feature(0)
    return LiveUserfaultfd.open(
        needed, user_mode_only=options.user_mode_only, optional=Feature.THREAD_ID
    )


def _attach(
    parts: Parts,
    made: LazyMemory,
    uffd: LiveUserfaultfd,
    resolved: Resolved,
    options: Options,
    planned: working_sets.Planned,
    copy: Grant | None,
) -> None:
    """Hand the descriptors to the pager; from its reply on, faults are served."""
    recipe = parts.recipe
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
            traced = tracing.begun(parts.policy, recipe.memory, parts.pages, resolved.spec)
            if traced >= 0:
                undo.callback(os.close, traced)
            spill = spill_file(parts.policy) if parts.budget.evicts else -1
            if spill >= 0:
                undo.callback(os.close, spill)
            fds += [fd for fd in (log, traced, spill) if fd >= 0]
            fds += planned.fds
            fds += [copy.filler, copy.marks, copy.claim] if copy is not None else []
            request = _attach_request(parts, made, uffd, resolved, options)
            request.has_signals, request.has_trace = log >= 0, traced >= 0
            request.has_spill = spill >= 0
            request.has_course, request.has_touches = planned.course >= 0, planned.touches >= 0
            request.recording = planned.job
            request.copy = copy.address if copy is not None else 0
            parts.pager.request(request, fds)
            undo_line.pop_all()
    line.close_writer()
    parts.lifeline = line
    parts.uffd = uffd


def _attach_request(
    parts: Parts,
    made: LazyMemory,
    uffd: LiveUserfaultfd,
    resolved: Resolved,
    options: Options,
) -> messages.Attach:
    memory = parts.recipe.memory
    return messages.Attach(
        number=parts.number,
        start=made.address,
        pages=parts.pages,
        page_size=memory.page_size,
        shared=memory.shared,
        # ZEROPAGE takes the marker that tracking leaves on a missing page for a page (EEXIST); COPY
        # does not (measured on 6.18).
        zeropage=memory.traits.zeropage and not options.track,
        exists_is_ambiguous=memory.traits.exists_is_ambiguous,
        has_poison=Feature.POISON in uffd.offered,
        prepared=options.prepared,
        tracked=options.track,
        has_source=resolved.fd >= 0,
        has_memory=parts.recipe.fd >= 0,
        source=resolved.spec,
        policy=msgspec.structs.replace(
            parts.policy,
            resident_bytes=parts.budget.size,
            resident_percent=None,
            trace=None,  # it may be no UTF-8
            spill=None,
        ),
        evicts=parts.budget.evicts,
        follows=parts.budget.follows,
    )
