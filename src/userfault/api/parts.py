"""What a lazily filled memory holds besides the mapping, and how it lets go of it."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import time
from collections.abc import Callable

from userfault.api.budget import Budget
from userfault.api.pager import Pager
from userfault.api.statistics import Statistics
from userfault.api.undisturbed import Tie
from userfault.kernel.errors import (
    FaultOverdue,
    KernelError,
    PageExists,
    PagerError,
    SourceError,
    TryAgain,
)
from userfault.kernel.memtypes import BASE_PAGE, Memory
from userfault.kernel.modes import Feature
from userfault.linux import libc, place
from userfault.linux.lifeline import LifeLine
from userfault.linux.memory import Recipe
from userfault.linux.refused import calling
from userfault.linux.uffd import LiveUserfaultfd
from userfault.linux.unpatched import original
from userfault.pager.core.plan import Counters
from userfault.pager.core.policy import Policy
from userfault.pager.core.states import NAMES, REMOVED, UNSETTLED, Pages
from userfault.pager.drivers.wire import messages
from userfault.source.spec import StoreSpec

_PROGRESS_S = 0.1
_POISON_TRIES = 10_000  # each gets past a page that is there, or past an event

Progress = Callable[[int, int], None]


class Parts:
    """What a lazy memory holds besides the mapping: descriptors, the pager, the states."""

    def __init__(
        self,
        pager: Pager,
        owned: bool,
        policy: Policy,
        recipe: Recipe,
        budget: Budget,
        *,
        inherited: bool,
    ) -> None:
        self.pager = pager
        self.owner = os.getpid()
        self.inherited = inherited  # children of fork(2) have the memory, too
        self.left = False  # this process is such a child, and has left all to its parent
        self.place_is_ours = True
        self.owned = owned  # the pager is this memory's alone
        self.policy = policy
        self.recipe = recipe
        self.budget = budget
        self.number = pager.number()
        self.address = self.length = 0  # of the memory
        self.pages = 0
        self.tracked = False  # writes are marked while it is filled (WP_ASYNC)
        self.shows: StoreSpec | None = None  # the snapshot that it shows the whole of
        self.copied = 0
        self.uffd: LiveUserfaultfd | None = None
        self.lifeline: LifeLine | None = None
        self.states: mmap.mmap | None = None
        with calling("eventfd2"):
            self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.closed = self.over_copy = False  # mapped over a copy that is shared
        self.tie: Tie | None = None
        self.memory: Callable[[], mmap.mmap | None] = lambda: None
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
            residency=answer.residency if answer else None,
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
        for state in UNSETTLED:
            for page, count in Pages(states, self.pages).runs(0, self.pages, state):
                start = address + page * page_size
                _fill_empty(uffd, uffd.poison, start, start + count * page_size, page_size)

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


def empty_dropped(parts: Parts, address: int, page_size: int) -> None:
    """Views live on, and over a shared copy the kernel would show them its pages in place of those
    that were dropped, as soon as the memory is not registered: make these zeros."""
    uffd, states = parts.uffd, parts.states
    if not parts.over_copy or uffd is None or states is None:
        return
    parts.ask()  # whoever dropped them ran on as soon as the pager had read of it, not noted it
    for page, count in Pages(states, parts.pages).runs(0, parts.pages, REMOVED):
        start = address + page * page_size
        _fill_empty(uffd, uffd.zeropage, start, start + count * page_size, page_size)


def _fill_empty(
    uffd: LiveUserfaultfd, fill: Callable[[int, int], int], start: int, end: int, page_size: int
) -> None:
    """Fill the empty pages of [start, end), as far as the kernel lets us."""
    for _ in range(_POISON_TRIES):
        try:
            fill(start, end - start)
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
