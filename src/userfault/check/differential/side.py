"""One of the two kernels while a program runs: processes, tasks, the calls they are at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from userfault.check.differential.areas import HUGE_PAGES
from userfault.check.differential.verbs import MESSAGE
from userfault.kernel import calls
from userfault.kernel.calls import (
    Call,
    CallKernel,
    CallPending,
    CallProcess,
    CallTask,
    Result,
)
from userfault.kernel.protocol import State
from userfault.model.tasks.sched import SPINS
from userfault.uapi import userfaultfd as abi

# What a call has come to: its result, or for what it sleeps.
Answer: TypeAlias = "Result | str"

AT_REST = "at rest"
BROKE = "broke: "
HANG = "hang: "
SPINS_FOR_EVER = f"sleeps: {SPINS}"
# How long the live kernel may take to come to rest before it hangs.  A machine with much to do can
# keep a task from running for seconds.
PATIENCE_S = 60.0
_CHOSEN = 1  # in place of an address that the kernel chose


class Common(msgspec.Struct, frozen=True):
    """What two releases both have: of what else they offer, the handshake is not compared."""

    features: int
    api_ioctls: int
    range_ioctls: int

    def of(self, call: Call, result: Result) -> Result:
        """The answer of a call without the bits that only one has."""
        if isinstance(call, calls.Fdinfo):
            return msgspec.structs.replace(result, data=self._fdinfo(result.data))
        if not isinstance(call, calls.Ioctl) or not result.data:
            return result
        if call.request == abi.UFFDIO_API and len(result.data) == abi.uffdio_api.size:
            api, features, ioctls = abi.uffdio_api.struct.unpack(result.data)
            masked = api, features & self.features, ioctls & self.api_ioctls
            data = abi.uffdio_api.struct.pack(*masked)
        elif call.request == abi.UFFDIO_REGISTER and len(result.data) == abi.uffdio_register.size:
            *rest, ioctls = abi.uffdio_register.struct.unpack(result.data)
            data = abi.uffdio_register.struct.pack(*rest, ioctls & self.range_ioctls)
        else:
            return result
        return msgspec.structs.replace(result, data=data)

    def _fdinfo(self, data: bytes) -> bytes:
        """Its last number is every ioctl that there is."""
        head, colon, last = data.rpartition(b":")
        if not colon:
            return data
        return b"%s:%x\n" % (head, int(last, 16) & (self.api_ioctls | self.range_ioctls))


class Side:
    """A kernel, and what the program has made of it.

    Calls are known by the number of the step that made them, tasks by process and index: these
    are the same on both kernels.  `modelled`: whatever it raises is something that it answers.
    `common`: of two releases.
    """

    def __init__(
        self,
        kernel: CallKernel,
        *,
        modelled: bool,
        patience_s: float = PATIENCE_S,
        common: Common | None = None,
    ) -> None:
        self.kernel = kernel
        self._common = common
        self._patience_s = patience_s
        self.processes: list[CallProcess] = []
        self._workers: list[list[CallTask]] = []
        self._threads: dict[int, int] = {}
        self._calls: dict[int, CallPending] = {}
        self._looks: Sequence[CallPending] = ()
        self._errors: type[Exception] = Exception if modelled else TimeoutError
        if modelled:
            kernel.hugepages(calls.HUGE, HUGE_PAGES)
        self._add(kernel.process())

    def _add(self, process: CallProcess) -> None:
        self.processes.append(process)
        self._workers.append([])
        self._name(len(self.processes) - 1, process.tasks[0])

    def hire(self, process: int) -> None:
        """One more task for the steps of this process."""
        self._name(process, self.processes[process].task())

    def _name(self, process: int, task: CallTask) -> None:
        workers = self._workers[process]
        self._threads[task.thread_id] = 100 * process + len(workers)
        workers.append(task)

    def workers(self, process: int) -> int:
        """How many tasks it has for steps."""
        return len(self._workers[process])

    def waiting(self, what: str) -> int:
        """How many calls sleep for this."""
        return sum(1 for call in self._calls.values() if call.waits_for == what)

    # --- Calls of the program ---------------------------------------------------------------------

    def give(self, number: int, process: int, index: int, call: Call) -> None:
        """A task begins a call."""
        self._calls[number] = self._workers[process][index].call(call)

    def settle(self, patience_s: float | None = None) -> str:
        """Let everything come to rest: `AT_REST`, or why it does not."""
        try:
            self.kernel.settle(patience_s or self._patience_s)
        except self._errors as error:
            return _told(error)
        return AT_REST

    def answers(self, *, shuffled: bool) -> tuple[Answer, ...]:
        """What every call that had not ended has come to, in the order of the calls.

        `shuffled`: several tasks were woken at once, so that their messages come in any order.
        """
        found = []
        for number, pending in list(self._calls.items()):
            answer = self._answer(pending, shuffled)
            found.append(answer)
            if not isinstance(answer, str):
                del self._calls[number]
                if isinstance(pending.call, calls.Fork) and answer.ok:
                    self._add(self.kernel.processes[pending.result().value])
        return tuple(found)

    def _answer(self, pending: CallPending, shuffled: bool) -> Answer:
        if pending.state is not State.DONE:
            return f"sleeps: {pending.waits_for or pending.state.value}"
        try:
            result = pending.result()
        except self._errors as error:
            return _told(error)
        if isinstance(pending.call, calls.Fork) and result.ok:
            return Result(1)
        if isinstance(pending.call, calls.ReadFd):
            data = _comparable(result.data, self._threads, shuffled)
            return msgspec.structs.replace(result, data=data)
        if isinstance(pending.call, calls.Mremap) and _chosen(result.value):
            return msgspec.structs.replace(result, value=_CHOSEN)
        return self._common.of(pending.call, result) if self._common is not None else result

    # --- Calls that look --------------------------------------------------------------------------

    def look(self, process: int, wanted: tuple[Call, ...]) -> None:
        """Begin to look at a process."""
        self._looks = self.processes[process].look(wanted)

    def seen(self) -> tuple[Answer, ...]:
        """What was seen; after a failure nothing more."""
        found: list[Answer] = []
        for pending in self._looks:
            try:
                result = _plain(pending.result(self._patience_s))
                if self._common is not None:
                    result = self._common.of(pending.call, result)
                found.append(result)
            except self._errors as error:
                found.append(_told(error))
                break
        return tuple(found)

    def close(self) -> str:
        """End every process: `AT_REST`, or what is wrong with what is left."""
        try:
            self.kernel.close()
        except self._errors as error:
            return _told(error)
        return AT_REST


def _told(error: Exception) -> str:
    return f"{HANG}{error}" if isinstance(error, TimeoutError) else f"{BROKE}{error!r}"


def _plain(found: Result) -> Result:
    """Without `Locked:` of smaps, of which each process that maps a page has its part."""
    if not found.vmas:
        return found
    vmas = tuple(msgspec.structs.replace(vma, locked=0) for vma in found.vmas)
    return msgspec.structs.replace(found, vmas=vmas)


def _chosen(address: int) -> bool:
    """Whether the kernel chose this address itself: those of two kernels differ."""
    return address >= calls.ARENA + calls.ARENA_LENGTH


def messages(data: bytes) -> list[bytes]:
    """What a read of a userfaultfd gave, one by one."""
    return [data[at : at + MESSAGE] for at in range(0, len(data), MESSAGE)]


def _comparable(data: bytes, threads: dict[int, int], shuffled: bool) -> bytes:
    """Messages with thread ids of the program's own; faults sorted where no order is promised."""
    faults, events = [], []
    if len(data) % MESSAGE:
        return data
    for message in messages(data):
        if message[0] == abi.UFFD_EVENT_REMAP:
            event, start, to, length = abi.uffd_msg_remap.struct.unpack(message)
            to = _CHOSEN if _chosen(to) else to
            events.append(abi.uffd_msg_remap.struct.pack(event, start, to, length))
            continue
        if message[0] != abi.UFFD_EVENT_PAGEFAULT:
            events.append(message)
            continue
        head = message[:-8]
        thread = int.from_bytes(message[24:28], "little")
        label = threads.get(thread, 0xFFFF) if thread else 0
        faults.append(head + (label + 1 if thread else 0).to_bytes(8, "little"))
    return b"".join((sorted(faults) if shuffled else faults) + events)
