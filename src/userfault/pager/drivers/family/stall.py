"""Whether a process of the pager is stuck: stopped by a signal, or in one system call for too long.

An ioctl that reads a source on a dead network file system never returns, and a stopped process
does not run; either way nobody serves faults (or replaces who does), and no process has ended that
could tell.  So supervisor, spare and worker look at one another every now and then: one that sleeps
elsewhere than where it waits for work, and has not run once since the last look, is stuck.  It is
killed: that is something the others know how to deal with.  (proc_pid_status(5); wchan as on 6.1 to
7.3.)  Without /proc nothing is seen.
"""

from __future__ import annotations

from userfault.pager.drivers.processes.say import say

LOOK_S = 10.0  # a look takes some 50 µs
SPARE_LOOK_S = 4.0  # at the supervisor: it is the first that the next death needs
WORKER_LOOK_S = 10.0  # at both: only what they cannot notice is left for it
IDLE = 4  # looks at who sleeps in poll(2) for LOOK_S and more: whose switches must tell

_SWITCHES = ("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
_AT_REST = ("ep_poll", "do_epoll_wait", "schedule_hrtimeout_range", "0", "")


def tell_of_stall(who: str) -> None:
    """On standard error."""
    say(f"the pager's {who} is stuck (stopped, or in one system call): replacing it")


class Stall:
    """What was seen of one process at the last looks.

    `patience`: how many more must show the same, where it is not stopped.
    """

    def __init__(self, patience: int = 1) -> None:
        self._patience = patience
        self._pid = 0
        self._before: tuple[str, ...] = ()
        self._same = 0

    def seen(self, pid: int) -> bool:
        """Look at process `pid`; True when it is stuck since the last look."""
        try:
            found = _look(pid)
        except OSError:  # it has ended, or /proc hides it
            found = ()
        same = bool(found) and pid == self._pid and found == self._before
        self._same = self._same + 1 if same else 0
        self._pid, self._before = pid, found
        return same and (found[0] == "T" or self._same >= self._patience)


def may_be_stopped(pid: int) -> bool:
    """Whether a process will perhaps not go on by itself: it is stopped, or cannot be looked at."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in b"Tt"
    except (OSError, IndexError):
        return True


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
