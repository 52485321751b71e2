"""A thread that makes calls, on any kernel; each with the outcome that it must have.

`ok` (the call succeeds), `fails` (with this errno), `blocks` (on this), `raises` (this signal).
Anything else is Failed, with the call in the trace.
"""

from __future__ import annotations

import time

from userfault.check.words.outcome import CannotRun, Failed, Lost, expect
from userfault.check.words.trace import errno_name, show_call, show_result
from userfault.kernel import calls
from userfault.kernel.calls import (
    Call,
    CallKernel,
    CallPending,
    CallProcess,
    CallTask,
    Result,
)
from userfault.kernel.errors import Unavailable
from userfault.kernel.protocol import State

_SETTLE_S = 5.0


class Program:
    """What the threads of one run share: the kernel, the trace, the deadline, the free places."""

    def __init__(self, kernel: CallKernel, deadline_s: float) -> None:
        self.kernel = kernel
        self.trace: list[str] = []
        self._deadline = time.monotonic() + deadline_s
        self._places = 0
        self._threads = 0

    def settle(self) -> None:
        """Let everything come to rest; raises Lost if it does not."""
        left = self._deadline - time.monotonic()
        try:
            self.kernel.settle(max(min(left, _SETTLE_S), 0.1))
        except TimeoutError as error:
            raise Lost("hang", cause=str(error)) from None
        if left < 0:
            raise Lost("hang", cause="the statement's deadline is over")

    def free_place(self) -> int:
        """The address of a place that nobody was given yet."""
        self._places += 1
        return calls.place(self._places)

    def name_thread(self) -> str:
        self._threads += 1
        return f"T{self._threads}"


class Blocked:
    """A call that sleeps."""

    def __init__(self, thread: Caller, pending: CallPending) -> None:
        self._thread = thread
        self._pending = pending

    @property
    def asleep(self) -> bool:
        """True while it still sleeps, now that everything has come to rest."""
        self._thread.program.settle()
        return self._pending.state is not State.DONE

    def still(self, why: str) -> None:
        """It must still sleep; `why` says what does not wake it."""
        if not self.asleep:
            raise Failed(f"{show_call(self._pending.call)} went on after {why}")

    def finish(self) -> Result:
        """It must have come to its end by now, whatever that is."""
        self._thread.program.settle()
        return self._thread.ended(self._pending)

    def ok(self) -> Result:
        """It must have succeeded by now."""
        return self._thread.must_succeed(self._pending.call, self.finish())

    def read(self, promised: bytes) -> None:
        """It is a Read, and must have come to its end with these bytes (repeated)."""
        expect(self.ok().data[: len(promised)], promised, "the bytes that the reader got")


class Caller:
    """A thread as far as the calls go that it makes, and the process it is in."""

    def __init__(self, program: Program, process: CallProcess, task: CallTask) -> None:
        self.program = program
        self.process = process
        self.thread_id = task.thread_id
        self.name = program.name_thread()
        self._task = task

    # --- Calls ------------------------------------------------------------------------------------

    def call(self, call: Call) -> CallPending:
        """Give this thread a call, and let everything come to rest."""
        pending = self._task.call(call)
        self.program.settle()
        if pending.state is not State.DONE:
            self._note(f"{show_call(call)} -> sleeps: {pending.waits_for or 'not started'}")
        return pending

    def do(self, call: Call) -> Result:
        """The result of a call that must not sleep."""
        return self.ended(self.call(call))

    def in_one_go(self, *wanted: Call) -> list[Result]:
        """The results of calls that must not sleep, with no rest between them.

        For what must not wait for something that spins until the last of them.
        """
        pending = [self._task.call(call) for call in wanted]
        self.program.settle()
        return [self.must_succeed(one.call, self.ended(one)) for one in pending]

    def ended(self, pending: CallPending) -> Result:
        """The result of a call that must have come to its end."""
        if pending.state is not State.DONE:
            waits = pending.waits_for or "the call before it"
            raise Failed(f"{show_call(pending.call)} sleeps, waiting for {waits}")
        result = pending.result()
        self._note(f"{show_call(pending.call)} -> {show_result(result)}")
        if not self.process.alive and not isinstance(pending.call, calls.Exit):
            raise Lost("crash", cause=f"the process ended by itself at {show_call(pending.call)}")
        return result

    def ok(self, call: Call) -> Result:
        """The result of a call that must succeed."""
        return self.must_succeed(call, self.do(call))

    def must_succeed(self, call: Call, result: Result) -> Result:
        """`result`, unless it is a failure."""
        if not result.ok:
            raise Failed(f"{show_call(call)}: promised success, saw {show_result(result)}")
        return result

    def fails(self, call: Call, code: int) -> Result:
        """The result of a call that must fail with this errno."""
        result = self.do(call)
        if result.errno != code:
            raise Failed(
                f"{show_call(call)}: promised {errno_name(code)}, saw {show_result(result)}"
            )
        return result

    def blocks(self, call: Call, on: str = calls.WAITS_FAULT) -> Blocked:
        """A call that must sleep, waiting for one of `calls.WAITS_`."""
        pending = self.call(call)
        if pending.state is State.DONE:
            self.ended(pending)
            raise Failed(f"{show_call(call)} did not sleep: {show_result(pending.result())}")
        expect(pending.waits_for, on, f"what {show_call(call)} waits for")
        return Blocked(self, pending)

    def raises(self, call: calls.Touch, signal: int) -> calls.SignalInfo:
        """The siginfo of a touch that must end with this signal."""
        result = self.do(call)
        if result.signal is None or result.signal.number != signal:
            raise Failed(f"{show_call(call)}: promised signal {signal}, saw {show_result(result)}")
        return result.signal

    # --- What the system must have ----------------------------------------------------------------

    def reserve(self, page_size: int, pages: int) -> None:
        """See to free pages in a hugetlb pool, for what `map` does not know of (copies of a fork).

        CannotRun where there are none.
        """
        try:
            self.program.kernel.hugepages(page_size, pages)
        except Unavailable as error:
            raise CannotRun(str(error)) from None

    def swap(self) -> None:
        """See to swap space.  CannotRun where there is none."""
        try:
            self.program.kernel.swap()
        except Unavailable as error:
            raise CannotRun(str(error)) from None

    def _note(self, line: str) -> None:
        self.program.trace.append(f"{self.name} {line}")
