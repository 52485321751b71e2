"""Where the pager runs: on the CPU whose thread faults, or, where that is no gain, on another.

A thread that faults wakes the pager, and the pager wakes the thread.  On one CPU both are a
switch of context; across CPUs each is the wake-up of a CPU that sleeps, which takes several times
as long as serving the fault (figures: docs/performance.md).  So the pager goes where the faults
come from.  It stands apart instead, and may poll there, while being there is no gain:

* other work on that CPU makes it wait for its turn, and faults come faster when it is elsewhere.
  Mostly they do not: apart from the pager the thread is one against that other work, and waits
  longer itself (measured on 6.18: three times as long a fault beside one busy loop of nice -10);
* it may not run there (affinity, cpuset);
* the thread leaves whenever the pager comes.  The scheduler wakes a thread on an idle CPU rather
  than on the one that its waker occupies, so on a quiet machine a thread that is bound to no CPU
  does so with its next fault (measured on 6.18).  It stays where it is while the pager is apart.

After the first and the last of these it tries again later; each time in vain the pause doubles.
Threads that fault on several CPUs at once have no CPU in common: the scheduler decides then.

Decisions only; `pager/drivers/serving/placement.py` asks the system and moves.
"""

from __future__ import annotations

from collections import Counter, deque

from userfault.pager.core.placing import Look, Placing, Stand

_VOTES = 8  # looks that are remembered
_SOON, _OFTEN, _SELDOM = 4, 256, 1024  # faults until the next look
_FLIGHTS = 3  # moves in a row after which the thread was not where we had gone
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 2.0
# How long a place is watched before it is judged, and how long others may keep us waiting there for
# each fault: more than polling elsewhere costs (some 10 µs), less than sleeping there does (50).
_WATCH_S, _WATCH_FAULTS, _WAIT_A_FAULT_S = 0.05, 16, 20e-6
_WATCH_WAIT_S = _WATCH_FAULTS * _WAIT_A_FAULT_S  # so much is judged though faults be few
_REPAY = 20  # a trial that kept us waiting so long is paid back by so many times that apart
_GAIN = 0.9  # what a fault may take apart, of what it took where others kept us waiting


def kept_waiting(delayed: float, ran: float, serving: float, used: float) -> float:
    """How long others than the faulting threads kept us from running: a lower bound, in seconds.

    `delayed`: time we were ready to run and did not.  The threads that fault are part of it: one
    that was woken may run before we have gone to sleep.  That part is not longer than the threads
    `ran`, nor longer than the interruptions of our work: what passed while `serving` beyond the CPU
    time `used`.
    """
    return max(delayed - min(ran, max(serving - used, 0.0)), 0.0)


class Chooser:
    """Decides where to be.  `allowed`: the CPUs that this process may run on."""

    def __init__(self, placing: Placing, allowed: frozenset[int]) -> None:
        self._fixed = placing.cpu if isinstance(placing.cpu, int) else -1
        self._allowed = frozenset({self._fixed}) if self._fixed >= 0 else allowed
        self._votes: deque[int] = deque(maxlen=_VOTES)  # threads, as often as they were seen
        self._where: dict[int, int] = {}  # the CPU of each of them
        self._followed = -1  # the CPU where we are, -1: apart
        self._since = 0.0  # since then it is good there
        self._flights = 0
        self._pause_s = _FIRST_PAUSE_S
        self._apart_until = 0.0
        self._fled = False  # why we are apart: the thread left, not: others kept us waiting
        self._pace_s = 0.0  # how long a fault took there then
        self._patient_until = 0.0  # it was no better apart: stay although others keep us waiting
        self._watched_since = 0.0
        self._faults = 0
        self._waited_s = 0.0

    @property
    def threads(self) -> set[int]:
        """Those that were seen lately."""
        return set(self._votes)

    def allow(self, allowed: frozenset[int]) -> None:
        """The CPUs that we may run on have changed, and overrule a CPU that the user fixed."""
        self._allowed = allowed

    def first(self) -> Stand:
        """Before anything was seen."""
        return Stand(self._allowed, polls=False, look_after=0)

    def saw(self, look: Look) -> Stand:
        """Where to be now."""
        if look.thread:
            self._votes.append(look.thread)
            self._where[look.thread] = look.cpu
            if len(self._where) > _VOTES:
                self._where = {thread: self._where[thread] for thread in self.threads}
        cpu = self._common_cpu()
        if not self._votes:
            return self.first()
        if self._fixed >= 0:
            fixed = self._allowed & {self._fixed} or self._allowed
            return Stand(fixed, polls=cpu >= 0 and fixed != {cpu}, look_after=_OFTEN)
        if cpu < 0:
            self._followed = -1
            return Stand(self._allowed, polls=False, look_after=_SELDOM)
        if look.working:
            # Filling in the background takes all the time that the scheduler gives us.
            self._followed = -1
            return self._apart(cpu, polls=False)
        if cpu not in self._allowed:
            return self._apart(cpu)
        return self._follow(cpu, look)

    def _common_cpu(self) -> int:
        """The CPU that most faults come from, or -1.  Half of them keep us where we are."""
        counts = Counter(self._where[thread] for thread in self._votes)
        if 2 * counts[self._followed] >= len(self._votes) > 0:
            return self._followed
        for cpu, count in counts.most_common(1):
            if 4 * count >= 3 * len(self._votes):
                return cpu
        return -1

    def _apart(self, cpu: int, *, polls: bool = True) -> Stand:
        """Anywhere but there.  Where that is the only place there is nothing to choose."""
        others = self._allowed - {cpu}
        if not others:
            return Stand(self._allowed, polls=False, look_after=_OFTEN)
        return Stand(others, polls, _OFTEN)

    def _follow(self, cpu: int, look: Look) -> Stand:
        now = look.now
        if now < self._apart_until and not (self._fled and look.bound):
            if not self._apart_in_vain(look):
                return self._apart(cpu)
            self._apart_until, self._patient_until = now, now + self._pause_s
        if self._followed != cpu:
            self._flights = self._flights + 1 if self._followed >= 0 else 0
            self._followed, self._since = cpu, now
            self._watch(now)
            if self._flights >= _FLIGHTS:
                return self._step_aside(cpu, now, fled=True)
            return Stand(frozenset({cpu}), polls=False, look_after=_SOON)
        self._flights = 0
        kept_s = self._waited_s + look.waited_s
        pace_s, waited_s = self._watched(look)
        if waited_s > _WAIT_A_FAULT_S:
            self._since = now
            if now >= self._patient_until and len(self._allowed) > 1:
                self._pace_s = pace_s
                return self._step_aside(cpu, now, fled=False, kept_s=kept_s)
        elif now - self._since > self._pause_s:
            self._pause_s = _FIRST_PAUSE_S
        return Stand(frozenset({cpu}), polls=False, look_after=_OFTEN)

    def _apart_in_vain(self, look: Look) -> bool:
        """Whether being apart is no better than what we left."""
        pace_s, waited_s = self._watched(look)
        return waited_s > _WAIT_A_FAULT_S or (not self._fled and pace_s > _GAIN * self._pace_s)

    def _watched(self, look: Look) -> tuple[float, float]:
        """Seconds that a fault took, and that others kept us waiting for it; 0, 0 until a watch
        is over.
        """
        self._faults += look.faults
        self._waited_s += look.waited_s
        watched_s = look.now - self._watched_since
        enough = self._faults >= _WATCH_FAULTS or self._waited_s > _WATCH_WAIT_S
        if watched_s < _WATCH_S or not enough or not self._faults:
            return 0.0, 0.0
        result = watched_s / self._faults, self._waited_s / self._faults
        self._watch(look.now)
        return result

    def _watch(self, now: float) -> None:
        self._watched_since, self._faults, self._waited_s = now, 0, 0.0

    def _step_aside(self, cpu: int, now: float, *, fled: bool, kept_s: float = 0.0) -> Stand:
        self._apart_until = now + max(self._pause_s, _REPAY * kept_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._followed, self._flights, self._fled = -1, 0, fled
        self._watch(now)
        return self._apart(cpu)
