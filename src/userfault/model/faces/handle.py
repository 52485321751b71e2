"""A userfaultfd of the model behind the typed protocol: one method an ioctl, errors typed."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

from userfault.kernel.errors import (
    FeatureMissing,
    KernelError,
    OpenRefused,
    RegistrationRefused,
    UsageError,
)
from userfault.kernel.events import Fork, PageFault, Remap, Remove, Unmap
from userfault.kernel.modes import Feature, Ioctls, Mode, names
from userfault.kernel.protocol import CopySource
from userfault.model.errors import Errno
from userfault.model.files.open_files import O_NONBLOCK
from userfault.model.process import Process
from userfault.model.tasks.sched import Task
from userfault.model.uffd import operations
from userfault.model.uffd.context import Context
from userfault.model.uffd.messages import UffdFile
from userfault.model.uffd.registration import register, unregister
from userfault.uapi import userfaultfd as abi

T = TypeVar("T")
ModelEvent = PageFault | Fork["ModelUserfaultfd"] | Remap | Remove | Unmap
_NONE = Feature(0)


class ModelUserfaultfd:
    """A userfaultfd after its handshake: one descriptor held by one process."""

    def __init__(self, process: Process, fd: int, features: Feature) -> None:
        file = process.file(fd)
        assert isinstance(file, UffdFile)
        self._process = process
        self._file = file
        self.fd = fd
        self._sched = process.machine.sched
        self.context = file.context
        self.features = features
        profile = process.machine.profile
        self.offered = Feature(profile.features | profile.says_guest_memfd)

    @classmethod
    def open(cls, process: Process, features: Feature, *, user_mode_only: bool) -> ModelUserfaultfd:
        """A new context of this process with exactly these features; FeatureMissing names each.

        OpenRefused of a kernel without userfaultfd.
        """
        if not process.machine.config.userfaultfd:
            attempts = [("userfaultfd(2)", errno.ENOSYS)]
            raise OpenRefused(attempts, "give the model a Config with userfaultfd=True")
        profile = process.machine.profile
        lacking = features & ~Feature(profile.features)
        if lacking:
            raise FeatureMissing(
                [feature.name or "" for feature in lacking],
                [feature.name or "" for feature in Feature(profile.features)],
            )
        context = Context(process.mm, user_mode_only=user_mode_only)
        context.flags = O_NONBLOCK
        try:
            context.handshake(abi.UFFD_API, int(features), may_trace=True)
            context.initialize(int(features))
        except Errno as refusal:
            told = f"features {names(features, Feature)}"
            raise KernelError.of("UFFDIO_API", refusal.code, memory=told) from None
        fd = process.open(UffdFile(O_NONBLOCK, context), 0)
        return cls(process, fd, features)

    def pass_to(self, process: Process) -> ModelUserfaultfd:
        """Another process's handle of the same context (SCM_RIGHTS)."""
        return ModelUserfaultfd(process, process.install(self._file), self.features)

    def close(self) -> None:
        """Drop this handle; the last one unregisters everything."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._do(lambda _: self._process.close(fd))

    # --- registration ----------------------------------------------------------------------------

    def register(self, start: int, length: int, mode: Mode) -> Ioctls:
        """UFFDIO_REGISTER; raises RegistrationRefused."""
        try:
            found = self._do(lambda task: register(task, self.context, start, length, int(mode)))
        except Errno as refusal:
            raise RegistrationRefused(
                "UFFDIO_REGISTER",
                refusal.code,
                start=start,
                length=length,
                memory=f"memory in mode {names(mode, Mode)}",
            ) from None
        return Ioctls(found)

    def unregister(self, start: int, length: int) -> None:
        """UFFDIO_UNREGISTER."""
        self._ranged(
            "UFFDIO_UNREGISTER",
            start,
            length,
            lambda task: unregister(task, self.context, start, length),
        )

    # --- events ----------------------------------------------------------------------------------

    def read(self, limit: int = 64) -> Sequence[ModelEvent]:
        """Up to `limit` queued events, faults first; [] when nothing is queued."""
        context = self.context
        found: list[ModelEvent] = []
        while len(found) < limit:
            if context.pending:
                waiter = context.pending.popleft()
                context.delivered.append(waiter)
                found.append(PageFault(waiter.address, waiter.flags, waiter.thread_id))
            elif context.events:
                found.append(_taken(self._process, context, self.features))
            else:
                break
        return found

    # --- fills -----------------------------------------------------------------------------------

    def copy(
        self, dst: int, src: CopySource, length: int, *, wake: bool = True, wp: bool = False
    ) -> int:
        """UFFDIO_COPY from an address of the calling process, or from a buffer."""
        if not isinstance(src, int) and len(src) < length:
            raise UsageError(
                f"UFFDIO_COPY of {length} bytes from a buffer of {len(src)}",
                cause="the buffer is too short",
                cure="pass a length that the buffer holds",
            )
        mode = _fill_mode(wake=wake, wp=wp)
        mm = self._process.mm
        return self._fill(
            abi.UFFDIO_COPY,
            lambda task: operations.copy(task, mm, self.context, dst, src, length, mode),
            dst,
            length,
            mode,
            direct=not isinstance(src, int),
        )

    def zeropage(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_ZEROPAGE."""
        mode = _fill_mode(wake=wake)
        return self._plain_fill(abi.UFFDIO_ZEROPAGE, operations.zeropage, start, length, mode)

    def continue_(self, start: int, length: int, *, wake: bool = True, wp: bool = False) -> int:
        """UFFDIO_CONTINUE."""
        mode = _fill_mode(wake=wake, wp=wp)
        return self._plain_fill(abi.UFFDIO_CONTINUE, operations.continue_, start, length, mode)

    def poison(self, start: int, length: int, *, wake: bool = True) -> int:
        """UFFDIO_POISON (6.6)."""
        mode = _fill_mode(wake=wake)
        return self._plain_fill(abi.UFFDIO_POISON, operations.poison, start, length, mode)

    def move(
        self, dst: int, src: int, length: int, *, wake: bool = True, allow_src_holes: bool = False
    ) -> int:
        """UFFDIO_MOVE within the owner, by the owner (6.8)."""
        mode = _fill_mode(wake=wake)
        if allow_src_holes:
            mode |= abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES
        mm = self._process.mm
        return self._fill(
            abi.UFFDIO_MOVE,
            lambda _: operations.move_pages(mm, self.context, dst, src, length, mode),
            dst,
            length,
            mode,
        )

    def _plain_fill(
        self, request: int, fill: operations.Fill, start: int, length: int, mode: int
    ) -> int:
        def run(task: Task) -> operations.Done:
            return fill(task, self.context, start, length, mode)

        return self._fill(request, run, start, length, mode)

    def _fill(
        self,
        request: int,
        run: Callable[[Task], operations.Done],
        start: int,
        length: int,
        mode: int,
        *,
        direct: bool = False,
    ) -> int:
        """`direct`: a buffer cannot fault, so that the call does not sleep and needs no task."""
        context = self.context
        done = 0

        def fill(task: Task) -> None:
            nonlocal done
            operations.check_known(context, request)
            operations.check_quiet(context)
            result = run(task)
            done = result[0]
            operations.conclude(context, start, result, mode)

        try:
            self._do(fill, direct=direct)
        except Errno as refusal:
            name = _NAMES[request]
            raise KernelError.of(
                name, refusal.code, start=start, length=length, done=done
            ) from None
        return done

    def wake(self, start: int, length: int) -> None:
        """UFFDIO_WAKE."""

        def run(_: Task) -> None:
            operations.wake(self.context, start, length)

        self._ranged("UFFDIO_WAKE", start, length, run)

    # --- protection ------------------------------------------------------------------------------

    def writeprotect(self, start: int, length: int, *, protect: bool, wake: bool = True) -> None:
        """UFFDIO_WRITEPROTECT."""
        mode = _protect_mode(protect, wake)
        self._protect(abi.UFFDIO_WRITEPROTECT, operations.writeprotect, start, length, mode)

    def rwprotect(self, start: int, length: int, *, protect: bool, wake: bool = True) -> None:
        """UFFDIO_RWPROTECT (7.3)."""
        mode = _protect_mode(protect, wake)
        self._protect(abi.UFFDIO_RWPROTECT, operations.rwprotect, start, length, mode)

    def _protect(
        self, request: int, action: operations.Protect, start: int, length: int, mode: int
    ) -> None:
        def run(task: Task) -> None:
            del task
            operations.check_known(self.context, request)
            operations.check_quiet(self.context)
            action(self.context, start, length, mode)

        self._ranged(_NAMES[request], start, length, run)

    def set_mode(self, *, enable: Feature = _NONE, disable: Feature = _NONE) -> None:
        """UFFDIO_SET_MODE (7.3)."""
        try:
            self._do(lambda _: self.context.set_mode(int(enable), int(disable)))
        except Errno as refusal:
            raise KernelError.of("UFFDIO_SET_MODE", refusal.code) from None

    # --- shared ----------------------------------------------------------------------------------

    def _ranged(self, name: str, start: int, length: int, run: Callable[[Task], None]) -> None:
        try:
            self._do(run)
        except Errno as refusal:
            raise KernelError.of(name, refusal.code, start=start, length=length) from None

    def _do(self, run: Callable[[Task], T], *, direct: bool = True) -> T:
        """In the task that calls; from outside in the process's own, or at once if it cannot sleep.

        Where nobody is preempted and nobody is ready, every lock is free.
        """
        sched = self._sched
        if sched.current is not None:
            return run(sched.current)
        if direct and not sched.preemptive and not sched.runnable:
            return run(self._process.caller())
        caller = self._process.caller()
        result: T = caller.call(lambda: run(caller))
        return result


def _taken(process: Process, context: Context, features: Feature) -> ModelEvent:
    """The first queued event, taken off; the descriptor of a FORK lands in the process."""
    event = context.events.popleft()
    result: ModelEvent
    if event.child is not None:
        fd = process.open(UffdFile(event.child.flags, event.child), 0)
        result = Fork(ModelUserfaultfd(process, fd, features))
    elif event.code == abi.UFFD_EVENT_REMAP:
        result = Remap(*event.payload)
    elif event.code == abi.UFFD_EVENT_REMOVE:
        result = Remove(*event.payload)
    else:
        result = Unmap(*event.payload)
    event.delivered(process.machine.sched)
    return result


_NAMES = {
    abi.UFFDIO_COPY: "UFFDIO_COPY",
    abi.UFFDIO_ZEROPAGE: "UFFDIO_ZEROPAGE",
    abi.UFFDIO_CONTINUE: "UFFDIO_CONTINUE",
    abi.UFFDIO_POISON: "UFFDIO_POISON",
    abi.UFFDIO_MOVE: "UFFDIO_MOVE",
    abi.UFFDIO_WRITEPROTECT: "UFFDIO_WRITEPROTECT",
    abi.UFFDIO_RWPROTECT: "UFFDIO_RWPROTECT",
}


def _fill_mode(*, wake: bool, wp: bool = False) -> int:
    return (0 if wake else operations.DONTWAKE) | (abi.UFFDIO_COPY_MODE_WP if wp else 0)


def _protect_mode(protect: bool, wake: bool) -> int:
    if protect:
        return abi.UFFDIO_WRITEPROTECT_MODE_WP  # protecting wakes nobody anyway
    return 0 if wake else abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE
