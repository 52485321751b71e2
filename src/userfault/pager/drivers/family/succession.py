"""The worker's part in keeping its family whole: it notices when nobody watches it any more.

Supervisor and spare may be dead, or both stopped, which comes to the same: then it kills them.
The spare replaces a dead supervisor.  If both were killed the worker is alone, and cannot make
another one itself (it has threads, which do not survive a fork).  Then it hands over to a family
made from a new interpreter, as it does when the client asks for `Pager.replace()`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from userfault.kernel.errors import PagerError
from userfault.linux import pidfd
from userfault.linux.descriptors import reserve_open
from userfault.linux.refused import calling
from userfault.pager.drivers.family import supervisor
from userfault.pager.drivers.family.handover import READY_S, Asked, Successor
from userfault.pager.drivers.family.stall import WORKER_LOOK_S, Stall, tell_of_stall
from userfault.pager.drivers.processes.watching import Loop
from userfault.pager.drivers.record.journal import Journal, Word

_LOOK_AGAIN_S = 0.05  # a spare that becomes the supervisor takes some milliseconds

Told = Callable[[PagerError | None], None]


class Succession:
    """Watches the supervisor, and carries out handovers.  Times are on the loop's clock.

    `program`: the module that a new family's first process runs.
    """

    def __init__(self, loop: Loop, journal: Journal, program: str) -> None:
        self._loop = loop
        self._journal = journal
        self._program = program
        self._supervisor = -1
        self._look_at: float | None = None  # whether there is a supervisor again
        self._alone: tuple[int, int] | None = None  # who was dead at the last look
        self._successor: Successor | None = None
        self._give_up_at = 0.0  # on the successor
        self._told: Told = _nobody
        self._asked: Asked = (0, 0)
        self.rest: Callable[[], None] = _rested  # so that nothing of ours works on meanwhile
        self._stalls = {Word.SUPERVISOR: Stall(), Word.SPARE: Stall()}
        self._stalls_at = 0.0
        self._watch_supervisor()
        loop.look_at(self)

    def next_time(self) -> float | None:
        """When `tick` is to be called."""
        return self._give_up_at if self._successor is not None else self._look_at

    def tick(self, now: float) -> None:
        """Time has come."""
        if self._successor is not None:
            if now >= self._give_up_at:
                self._failed(f"it did not come up within {READY_S:.0f} s")
        elif self._look_at is not None and now >= self._look_at:
            self._look_for_supervisor(now)

    def look(self, now: float) -> float:
        """Whether supervisor and spare both run no more, without being dead.

        Either is the other's to notice, and twice as fast.
        """
        if now < self._stalls_at:
            return WORKER_LOOK_S
        self._stalls_at = now + WORKER_LOOK_S
        for role, stall in self._stalls.items():
            pid, process = self._journal.member(role)
            if pid and stall.seen(pid):
                tell_of_stall(role.name.lower())
                pidfd.kill(process)
        return WORKER_LOOK_S

    def replace(self, asked: Asked, told: Told, now: float) -> None:
        """Begin a handover for a client's request (or zeros: for ourselves)."""
        if self._successor is not None:
            told(_not_replaced("a handover is under way already"))
            return
        try:
            with self._loop.lifted(), reserve_open():
                self._successor = Successor(self._journal, self._program)
        except (OSError, PagerError) as error:
            told(_not_replaced(str(error)))
            return
        self._told, self._asked = told, asked
        self._give_up_at = now + READY_S
        self._loop.timers[self] = None
        self._loop.watch(self._successor.channel.fileno(), self._came_up)

    def close(self) -> None:
        """The worker ends: so does whatever was begun."""
        if self._successor is not None:
            self._end_successor()
        if self._supervisor >= 0:
            self._loop.forget(self._supervisor)
            os.close(self._supervisor)
            self._supervisor = -1

    def _watch_supervisor(self) -> None:
        _, process = self._journal.member(Word.SUPERVISOR)
        if not process:  # nobody could be had who watches
            self._look_from(0.0)
            return
        # A duplicate: a new supervisor closes the old one's.
        with calling("dup"):
            self._supervisor = os.dup(process)
        self._loop.watch(self._supervisor, self._supervisor_ended)

    def _supervisor_ended(self) -> None:
        self._loop.forget(self._supervisor)
        os.close(self._supervisor)
        self._supervisor = -1
        self._look_from(0.0)
        self._alone = None

    def _look_from(self, when: float) -> None:
        self._look_at = when
        self._loop.timers[self] = None

    def _look_for_supervisor(self, now: float) -> None:
        """Whether the spare has become the supervisor, or still can."""
        supervisor, supervisor_fd = self._journal.member(Word.SUPERVISOR)
        spare, spare_fd = self._journal.member(Word.SPARE)
        self._look_at = None
        # Descriptors of those who were replaced are closed, and look as ended: twice the same.
        alone, self._alone = self._alone, (supervisor, spare)
        if supervisor and not pidfd.ended(supervisor_fd):
            self._watch_supervisor()
        elif (spare and not pidfd.ended(spare_fd)) or alone != self._alone:
            self._look_from(now + _LOOK_AGAIN_S)
        else:
            self.replace((0, 0), _nobody, now)
            self._look_from(now + READY_S)  # again, if it fails

    def _came_up(self) -> None:
        """The new process is ready, or has ended."""
        successor = self._successor
        assert successor is not None
        self._loop.forget(successor.channel.fileno())
        if not successor.ready():
            self._failed("the new process ended; its standard error may say more")
            return
        self.rest()
        if successor.hand_over(self._asked):
            self._told(None)
            supervisor.leave(self._journal)
        else:
            self._failed("the new process did not take over; its standard error may say more")

    def _failed(self, cause: str) -> None:
        self._end_successor()
        self._told(_not_replaced(cause))

    def _end_successor(self) -> None:
        successor, self._successor = self._successor, None
        if successor is not None:
            self._loop.forget(successor.channel.fileno())
            pidfd.kill(successor.process)
            successor.close()


def _rested() -> None:
    """Nothing does."""


def _not_replaced(cause: str) -> PagerError:
    return PagerError(
        "the pager was not replaced", cause=cause, cure="it serves on; mend this and try again"
    )


def _nobody(_: PagerError | None) -> None:
    """Nobody asked."""
