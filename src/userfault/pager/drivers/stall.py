"""Whether a worker is stuck: stopped by a signal, or in one system call for too long.

An ioctl that reads a source on a dead network file system never returns, and a stopped process
does not run; either way nobody serves faults, and no process has ended that could tell.  So the
supervisor looks every now and then: a worker that sleeps elsewhere than in epoll_wait, and has not
run once since the last look, is stuck.  It is killed, and its successor finds the page not cached
and reads it away from the fault path.  (proc_pid_status(5); wchan as on 6.1 to 7.3.)
"""

from __future__ import annotations

LOOK_S = 10.0  # a look takes some 50 µs

_SWITCHES = ("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
_AT_REST = ("ep_poll", "do_epoll_wait", "schedule_hrtimeout_range", "0", "")


class Stall:
    """What was seen of one worker at the last look."""

    def __init__(self) -> None:
        self._pid = 0
        self._before: tuple[str, ...] = ()

    def seen(self, pid: int) -> bool:
        """Look at process `pid`; True when it is stuck since the last look."""
        try:
            found = _look(pid)
        except OSError:  # it has ended, or /proc hides it
            found = ()
        stuck = bool(found) and pid == self._pid and found == self._before
        self._pid, self._before = pid, found
        return stuck


def _look(pid: int) -> tuple[str, ...]:
    """State and counts of context switches; nothing for a process that runs or waits for work."""
    fields = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, rest = line.partition("\t")
            fields[name] = rest.strip()
    state = fields["State:"][:1]
    with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        place = file.read()
    if state in "RZXt" or (state != "T" and place in _AT_REST):  # t: a debugger holds it
        return ()
    return (state, place, *(fields[name] for name in _SWITCHES))
