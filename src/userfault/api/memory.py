"""`LazyMemory`: the mapping that `lazy()` returns."""

from __future__ import annotations

import contextlib
import mmap

from userfault.api.parts import Parts, Progress, empty_dropped
from userfault.api.statistics import Statistics
from userfault.api.undisturbed import undisturbed
from userfault.kernel.errors import (
    UsageError,
)
from userfault.kernel.memtypes import Memory
from userfault.kernel.numbers import real, whole
from userfault.pager.drivers.wire import messages


class LazyMemory(mmap.mmap):
    """Memory filled on first touch: a `mmap.mmap`, so NumPy and memoryview use it without copies.

    Made by `lazy()`.  `len()` is the source's length; the rest of the last page reads zero.
    """

    memory: Memory
    address: int
    page_size: int
    user_mode_only: bool
    _parts: Parts
    _first_to_go: Attribute

    def complete(self, timeout: float | None = None, progress: Progress | None = None) -> None:
        """Fill everything and wait for it; then the pager lets go of the memory.

        `progress(pages_done, pages)` is called now and then.  Raises SourceError for pages that
        were given up, TimeoutError after `timeout` seconds, PagerError when the pager has died,
        UsageError where a residency budget keeps a part of it out.
        """
        timeout = None if timeout is None else real("timeout", timeout)
        self._parts.at_home()
        self._parts.budget.let_all_in("complete()", self._parts.recipe.length)
        if not self._parts.finished:
            self._parts.request(messages.Complete(self._parts.number))
        if not self.wait(timeout, progress):
            raise TimeoutError(f"not complete after {timeout} s")
        self.check()

    def wait(self, timeout: float | None = None, progress: Progress | None = None) -> bool:
        """Wait until everything is in; False if it is not after `timeout` seconds.

        Without background fill only touches and `prefetch` bring pages in.  Raises UsageError where
        a residency budget keeps a part of it out.
        """
        self._parts.at_home()
        self._parts.budget.let_all_in("wait()", self._parts.recipe.length)
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
                empty_dropped(parts, self.address, self.page_size)
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
        if parts.budget.evicts:
            parts.give_up("the memory was left with views alive, and not all of it may be in")
            return
        try:
            parts.request(messages.Complete(parts.number))
            if not parts.wait(parts.policy.patience_s, None):
                parts.give_up(f"not complete after {parts.policy.patience_s} s of patience")
        except BaseException:  # Ctrl-C included: never leave pages that nobody fills
            parts.give_up("completing the memory was interrupted")
            raise


class Attribute:
    """Something that goes with the object that it is an attribute of."""
