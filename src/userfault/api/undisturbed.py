"""Making and letting go where no signal handler can cut it short.

Python calls the handlers of signals in the main thread, between any two bytecodes of whatever runs
there, and a handler may raise: KeyboardInterrupt, a timeout by SIGALRM.  What a function had made a
moment before is then in no variable yet, and a destructor that is struck does half its work.  So
whatever makes or lets go of descriptors, processes and mappings does it in a thread of its own,
where no handler is ever called.

`undisturbed` runs such work and waits for it; who waits can be struck at any time, and what was
made is let go of.  `Tie` is for what is let go of when an object goes: CPython calls back in C from
the object's deallocation, and everything up to the thread is C as well.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import itertools
import operator
import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from userfault.linux.unpatched import original
from userfault.uapi.syscalls import SYSCALLS

T = TypeVar("T")

_BEGIN_S = 1.0  # how long a thread may take to its first step
_UNDO_S = 1.0  # how long a caller that was struck waits for what it began to be undone


def in_main_thread() -> bool:
    """Whether this is the thread in which handlers of signals are called."""
    return bool(original("_thread", "get_native_id")() == os.getpid())


class _Outcome(Generic[T]):
    """What became of the work, told between two threads."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work: Callable[[], T] | None = work
        self.begun = original("_thread", "allocate_lock")()  # taken by whoever does the work
        self.done = original("_thread", "allocate_lock")()
        self.done.acquire()
        self.made: list[T] = []
        self.error: BaseException | None = None
        self.unwanted = False
        self.finished = False

    def run(self) -> None:
        if not self.begun.acquire(False):
            return  # too late
        here = 0
        try:  # all of it: where memory ends, any of it raises, and somebody waits
            work, self.work = self.work, None
            assert work is not None
            here = original("_thread", "get_ident")()
            _working[here] = self
            self.made.append(work())
        except BaseException as error:
            self.error = error
        finally:
            work = None
            _working.pop(here, None)
            if self.unwanted:
                self.made.clear()
            self.finished = True
            self.done.release()


_working: dict[int, _Outcome[Any]] = {}  # by thread


def unwanted() -> bool:
    """Whether the caller of this thread's work was struck: what takes long ends then."""
    outcome = _working.get(original("_thread", "get_ident")())
    return outcome is not None and outcome.unwanted


def undisturbed(work: Callable[[], T]) -> T:
    """What `work` returns or raises; no signal handler strikes in the middle of it.

    A handler that raises meanwhile is heard at once, but for up to a second, in which what `work`
    made is let go of.
    """
    if not in_main_thread():
        return work()  # handlers are called in the main thread only
    outcome = _Outcome(work)
    begun: list[int] = []
    try:
        # In C from the call to the list: a thread that runs is in the list, wherever we are struck.
        begun.extend(map(original("_thread", "start_new_thread"), [outcome.run], [()]))
        while not outcome.done.acquire(timeout=_BEGIN_S):
            if outcome.begun.acquire(False):  # it had no memory for its first step, and is gone
                begun.clear()
                break
    except BaseException as error:
        if begun:
            outcome.unwanted = True
            if outcome.finished or outcome.done.acquire(timeout=_UNDO_S):
                outcome.made.clear()
            raise
        if not isinstance(error, RuntimeError):
            raise
    if not begun:
        return work()  # no thread is to be had: a limit, or the interpreter is ending
    try:
        if outcome.error is not None:
            raise outcome.error
        return outcome.made.pop()
    finally:
        del outcome  # an error that is kept would keep it, and it the error


class Held(Protocol):
    """What a process holds for an object."""

    def end(self, *, gone: bool) -> None:
        """Let go of everything: the object is about to go (`gone`), or the program ends."""

    def forked(self) -> None:
        """In a child of fork(2): everything is the parent's."""


class Tie(weakref.ref[Any]):
    """Has `held.end()` called when `thing` goes, at the latest when the program ends.

    To be made by `undisturbed`.
    """

    def __new__(cls, thing: Any, held: Held) -> Tie:
        del held
        return super().__new__(cls, thing, _run)

    def __init__(self, _thing: Any, held: Held) -> None:
        _end_those_left()
        self._held = held
        self._ended = ctypes.c_uint32(0)
        wait = (_FUTEX, ctypes.byref(self._ended), _FUTEX_WAIT, 0, ctypes.byref(_GONE))
        steps = [
            (_left.append, self),
            (original("_thread", "start_new_thread"), _end_those_left, ()),
            *[(_syscall, *wait)] * _TIMES,
        ]
        # deque, starmap and call are C: no bytecode in between, and so no handler.
        self.run: Callable[[], object]
        self.run = partial(collections.deque, itertools.starmap(operator.call, steps), 0)
        _ties[id(self)] = self

    def end(self) -> None:
        """Let go now.  A second time does nothing."""
        if _ties.pop(id(self), None) is None:
            return
        try:
            self._held.end(gone=self() is None)
        finally:
            del self._held  # it may know us
            self._ended.value = 1
            _syscall(_FUTEX, ctypes.byref(self._ended), _FUTEX_WAKE, 1)

    def cancel(self) -> None:
        """Everything is let go of."""
        self.run = int  # in C, and does nothing
        if _ties.pop(id(self), None) is not None:
            del self._held

    def forked(self) -> None:
        """In a child of fork(2)."""
        self._held.forked()


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


# A deallocation waits for the end: a wait that a signal ends is repeated.  But it does not wait for
# one that waits for the deallocating thread (which may hold a lock).
_GONE = _TimeSpec(0, 500_000_000)
_TIMES = 4
_FUTEX = ctypes.c_long(SYSCALLS.get(os.uname().machine, {}).get("futex", -1))
_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # with FUTEX_PRIVATE_FLAG (linux/futex.h)
_syscall = ctypes.CDLL(None).syscall
_run = operator.methodcaller("run")
_ties: dict[int, Tie] = {}  # of the objects that live, the oldest first
_left: collections.deque[Tie] = collections.deque()  # of those that have gone


def _end_those_left() -> None:
    """End what objects have left: in a thread, or later where none was to be had."""
    while True:
        try:
            tie = _left.popleft()
        except IndexError:
            return
        with contextlib.suppress(Exception):  # nobody is there to be told
            tie.end()


def _end_all() -> None:
    """The program ends: what was made last goes first."""
    _end_those_left()
    for tie in reversed(list(_ties.values())):
        with contextlib.suppress(Exception):
            tie.end()


def _forked() -> None:
    """In a child of fork(2): all of it is the parent's."""
    held = list(_ties.values())
    _ties.clear()  # what goes from here on goes without an end
    _left.clear()
    for tie in held:
        tie.forked()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forked)
