"""The live kernel behind the protocol: the calling process, with threads as its tasks.

Tasks touch memory by libc's memmove, which runs without the GIL, so that another thread can
serve the fault.  A fault that ends in SIGBUS or SIGSEGV ends this process, as it would end any
other; a client that wants to see the signal as an outcome forks first.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import Memory
from userfault.kernel.modes import Feature
from userfault.kernel.protocol import Backing, Outcome, State
from userfault.linux import libc
from userfault.linux.memory import FileBacking, Recipe, mapped, refusal
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

_NONE = Feature(0)

# /proc/PID/task/TID/wchan of a waiter, measured on 6.1 to 7.3
_WAITS = {"handle_userfault": "fault", "userfaultfd_event_wait_completion": "event"}


class LiveMapping:
    """A mapping of this process; `close()` unmaps it and gives pool pages back."""

    def __init__(self, recipe: Recipe, address: int) -> None:
        self._recipe = recipe
        self._address = address
        self._mapped = True

    @property
    def memory(self) -> Memory:
        return self._recipe.memory

    @property
    def address(self) -> int:
        return self._address

    @property
    def length(self) -> int:
        return self._recipe.length

    @property
    def backing(self) -> FileBacking | None:
        return self._recipe.backing

    def close(self) -> None:
        self._recipe.close()
        if self._mapped:
            self._mapped = False
            libc.munmap(self._address, self.length)


class LivePending:
    """An operation of a task, running in its thread."""

    def __init__(self, task: LiveTask, call: Callable[[], Outcome]) -> None:
        self._task = task
        self._call = call
        self._started = False
        self._finished = threading.Event()
        self._outcome = Outcome()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run in the task's thread."""
        self._started = True
        try:
            self._outcome = self._call()
        except OSError as error:
            self._outcome = Outcome(errno=error.errno or 0)
        except BaseException as error:  # a mistake in the call: whoever waits must hear of it
            self._error = error
        self._finished.set()

    @property
    def state(self) -> State:
        if self._finished.is_set():
            return State.DONE
        if not self._started:
            return State.NOT_STARTED
        return State.BLOCKED if self._task.waits_for() else State.RUNNING

    @property
    def waits_for(self) -> str:
        return "" if self._finished.is_set() else self._task.waits_for()

    def result(self, timeout_s: float = 10.0) -> Outcome:
        if not self._finished.wait(timeout_s):
            waits = self.waits_for or "nothing known"
            raise TimeoutError(f"not done after {timeout_s} s: {self.state.value} on {waits}")
        if self._error is not None:
            raise self._error
        return self._outcome


class LiveTask:
    """A thread of this process that runs operations in the order given."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[LivePending | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._last: LivePending | None = None
        threading.Thread(target=self._run, name="userfault-task", daemon=True).start()
        self._ready.wait()

    def _run(self) -> None:
        self.thread_id = threading.get_native_id()
        self._ready.set()
        while (pending := self._work.get()) is not None:
            pending.run()

    def close(self) -> None:
        """End the thread once it has done what it was given; it takes no more."""
        self._work.put(None)

    def waits_for(self) -> str:
        """`fault` or `event` while the thread sleeps in the kernel for one, else nothing."""
        try:
            with open(f"/proc/self/task/{self.thread_id}/wchan", encoding="ascii") as file:
                return _WAITS.get(file.read(), "")
        except OSError:
            return ""

    @property
    def idle(self) -> bool:
        # What stands behind a blocked operation waits with it, so the last one alone cannot tell.
        last = self._last
        return last is None or last.state is State.DONE or bool(self.waits_for())

    def call(self, operation: Callable[[], Outcome]) -> LivePending:
        """Run anything in this task's thread."""
        self._last = pending = LivePending(self, operation)
        self._work.put(pending)
        return pending

    def read(self, address: int, length: int) -> LivePending:
        return self.call(lambda: Outcome(data=libc.read_memory(address, length)))

    def write(self, address: int, data: bytes) -> LivePending:
        return self._none(libc.write_memory, address, data)

    def madvise(self, address: int, length: int, advice: int) -> LivePending:
        return self._none(libc.madvise, address, length, advice)

    def munmap(self, address: int, length: int) -> LivePending:
        return self._none(libc.munmap, address, length)

    def mprotect(self, address: int, length: int, protection: int) -> LivePending:
        return self._none(libc.mprotect, address, length, protection)

    def mremap(
        self, address: int, old_length: int, new_length: int, flags: int, new_address: int = 0
    ) -> LivePending:
        return self.call(
            lambda: Outcome(value=libc.mremap(address, old_length, new_length, flags, new_address))
        )

    def _none(self, operation: Callable[..., None], *arguments: int | bytes) -> LivePending:
        def run() -> Outcome:
            operation(*arguments)
            return Outcome()

        return self.call(run)


class LiveProcess:
    """The calling process."""

    def __init__(self) -> None:
        self.tasks: list[LiveTask] = []

    def map(
        self,
        memory: Memory,
        length: int,
        *,
        backing: Backing | None = None,
        offset: int = 0,
        writable: bool = True,
        grow_pool: bool = False,
    ) -> LiveMapping:
        """Map fresh memory, or with `backing` an alias of [offset, offset + length) of it."""
        protection = mman.PROT_READ | (mman.PROT_WRITE if writable else 0)

        def map_it(recipe: Recipe) -> int:
            return libc.mmap(0, recipe.length, protection, recipe.flags, recipe.fd, offset)

        if backing is None:
            return LiveMapping(*mapped(memory, length, map_it, grow_pool=grow_pool))
        recipe = self._alias(memory, length, backing)
        try:
            return LiveMapping(recipe, map_it(recipe))
        except OSError as error:
            recipe.close()
            raise refusal(memory, recipe.length, error) from None

    def _alias(self, memory: Memory, length: int, backing: Backing) -> Recipe:
        if not isinstance(backing, FileBacking):
            raise UsageError(
                f"cannot map {type(backing).__name__} on the live kernel",
                cause="it is not a descriptor of this kernel",
                cure="pass the .backing of a live mapping",
            )
        if length % memory.page_size:
            raise UsageError(
                f"an alias of {length} bytes", cause="not whole pages", cure="round it up"
            )
        flags = mman.MAP_SHARED if memory.shared else mman.MAP_PRIVATE
        try:
            fd = os.dup(backing.fileno())
        except OSError as error:
            raise refusal(memory, length, error) from None
        return Recipe(memory, length, flags, FileBacking(fd, length))

    def userfaultfd(
        self, features: Feature = _NONE, *, user_mode_only: bool | None = None
    ) -> LiveUserfaultfd:
        return LiveUserfaultfd.open(features, user_mode_only=user_mode_only)

    def task(self) -> LiveTask:
        task = LiveTask()
        self.tasks.append(task)
        return task


class LiveKernel:
    """The kernel this program runs on."""

    def __init__(self) -> None:
        self._process = LiveProcess()

    @property
    def name(self) -> str:
        return f"Linux {os.uname().release}"

    def process(self) -> LiveProcess:
        return self._process

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait until every task is idle, done or asleep in a userfault or an event."""
        deadline = time.monotonic() + timeout_s
        while not all(task.idle for task in self._process.tasks):
            if time.monotonic() > deadline:
                raise TimeoutError(f"tasks still run after {timeout_s} s")
            time.sleep(0)
