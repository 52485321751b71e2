"""The time of recordings: which class of first touches it is, and when it is over.

The core has no clock.  So here is told when a class begins, some dozen times a restore, and what is
noted meanwhile is of that class.  A recording is over after its policy's `record_s`; where the rest
is to be filled in the background, as soon as nothing new was touched for a while; and when its
client asks for everything, or goes.  What becomes of it is the work of another process.

Of a replay is noted when it began: what is seen of a set in a moment says nothing of its use.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket

import msgspec

from userfault.kernel.errors import PagerError
from userfault.pager.drivers.mappings.served import Served
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.pager.drivers.processes.watching import Loop
from userfault.pager.drivers.serving.acting import Acting
from userfault.snapshot.format.first_touch import class_at, ends
from userfault.snapshot.working_sets.place import Job

_CHECK_S = 0.1  # between two looks at whether anything was touched
_QUIET_S = 0.5
_LIFE_S = 1.0  # of a restore, from which on it says something of its set
_KNOWN = 16  # pages of a sample, from which on that says something
_USEFUL = 0.5  # the share of them that is touched, below which the next restore is recorded
_SAVING = "userfault.snapshot.working_sets.saving"


class _Running:
    """One mapping that is recorded.  Times are those of the loop's clock."""

    def __init__(self, served: Served, began: float, now: float) -> None:
        self.served = served
        self.began = began
        self.touched_at = now
        self.noted = 0
        self.next: float = now


class Recordings:
    """All that are under way (`loop.Timer`)."""

    def __init__(self, loop: Loop, acting: Acting) -> None:
        self._loop = loop
        self._acting = acting
        self._running: dict[Served, _Running] = {}
        self._replays: dict[Served, float] = {}  # since when

    def begin(self, served: Served, now: float) -> None:
        """A mapping is served from now on, or again."""
        notes = served.notes
        if notes is not None and not notes.touches.over:
            began = notes.begin(now)
            notes.touches.now = class_at(now - began)
            self._running[served] = _Running(served, began, now)
            self._loop.timers[self] = None
        elif served.course is not None and served.attach.recording is not None:
            self._replays[served] = now

    def next_time(self) -> float | None:
        """When the first of them is to be looked at."""
        return min((each.next for each in self._running.values()), default=None)

    def tick(self, now: float) -> None:
        """Look at those whose time has come."""
        for each in [each for each in self._running.values() if each.next <= now]:
            with self._acting.costs(each.served):
                self._look(each, now)

    def _look(self, each: _Running, now: float) -> None:
        served, elapsed = each.served, now - each.began
        number = class_at(elapsed)
        each.next = each.began + ends(number)
        notes = served.notes
        assert notes is not None
        touches = notes.touches
        touches.now = number
        if touches.noted != each.noted:
            each.noted, each.touched_at = touches.noted, now
        quiet = served.main.core.planner.background and now - each.touched_at >= _QUIET_S
        if quiet or elapsed >= served.plan.policy.record_s:
            self.end(served, now)
            for context in served.contexts:
                if not context.closed:
                    self._acting.perform(context)  # the rest may be filled now
        else:
            each.next = min(each.next, now + _CHECK_S)

    def end(self, served: Served, now: float) -> None:
        """It is over: keep what was recorded.  A second time does no harm."""
        job, notes = served.attach.recording, served.notes
        if self._running.pop(served, None) is not None and notes is not None:
            notes.end()
            if job is not None and notes.any:
                self._keep(job, notes.fd)
        began = self._replays.pop(served, now)
        if job is not None and now - began >= _LIFE_S and _of_little_use(served):
            self._keep(msgspec.structs.replace(job, stale=True), -1)

    def _keep(self, job: Job, notes: int) -> None:
        """Have a process make a set of it.  Where none can be started there is no set."""
        with contextlib.suppress(OSError, PagerError), contextlib.ExitStack() as end:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            end.callback(ours.close)
            end.callback(theirs.close)
            with self._loop.lifted():
                pid = spawn_python(_SAVING, "main", theirs.fileno(), lean_path())
            process = os.pidfd_open(pid)
            self._loop.watch(process, functools.partial(self._ended, process, pid))
            fds = [notes] if notes >= 0 else []
            socket.send_fds(ours, [msgspec.msgpack.encode(job)], fds)

    def _ended(self, process: int, pid: int) -> None:
        self._loop.forget(process)
        os.close(process)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _of_little_use(served: Served) -> bool:
    """Most of what came ahead was for nothing, or most of what was touched did not come ahead."""
    if served.lost or not served.contexts:
        return False
    core = served.main.core
    counters = core.counters
    # Where the rest follows at once few pages of the sample are left to be touched.
    vain = not served.plan.policy.background and counters.set_sampled >= _KNOWN
    vain = vain and counters.set_touched < _USEFUL * counters.set_sampled
    return vain or counters.set_outside > max(counters.set_filled, 64)
