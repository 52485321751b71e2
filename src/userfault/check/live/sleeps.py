"""What a task waits for, by the kernel function that it sleeps in."""

from __future__ import annotations

import time

from userfault.kernel import calls

# Where a task sleeps, by /proc/PID/task/TID/wchan (measured on 6.18; the first two on 6.1 to 7.3).
_WAITS = {
    "handle_userfault": calls.WAITS_FAULT,
    "userfaultfd_event_wait_completion": calls.WAITS_EVENT,
    "userfaultfd_read_iter": calls.WAITS_MESSAGE,
    "userfaultfd_ctx_read": calls.WAITS_MESSAGE,
    "userfaultfd_read": calls.WAITS_MESSAGE,  # 6.1
    "poll_schedule_timeout.constprop.0": calls.WAITS_MESSAGE,
    "anon_pipe_read": calls.WAITS_PIPE,
    "anon_pipe_write": calls.WAITS_PIPE,
    "pipe_read": calls.WAITS_PIPE,
    "pipe_write": calls.WAITS_PIPE,
    "do_wait": calls.WAITS_CHILD,
}
# Sleeps that end by themselves, however long they take: for a grace period, as mount(2) does, for
# the fault mutex of hugetlb, which other processes hold while they clear a page, or for every
# processor to hand in its new pages, as MADV_COLLAPSE does.
_ENDS_BY_ITSELF = (
    "synchronize_rcu",
    "synchronize_srcu",
    "exp_funnel_lock",
    "rcu_barrier",
    "hugetlb_fault",
    "flush_work",
    "lru_add_drain_all",
)
# A sleep with another name may be a lock that is about to be free: it counts after this long.
_UNKNOWN_WAIT_S = 0.05


class Sleeps:
    """Several looks at the same tasks, until all of them sleep."""

    def __init__(self) -> None:
        self._unknown: dict[object, tuple[str, float]] = {}  # since when, by the call

    def waits_for(self, call: object, wchan: str) -> str:
        """One of `calls.WAITS_`, or the name of a function; "" if the task may go on itself."""
        if not wchan or wchan in _WAITS or wchan.lstrip("_").startswith(_ENDS_BY_ITSELF):
            self._unknown.pop(call, None)
            return _WAITS.get(wchan, "")
        now = time.monotonic()
        name, since = self._unknown.setdefault(call, (wchan, now))
        if name != wchan:
            self._unknown[call] = (wchan, now)
            return ""
        return wchan if now - since > _UNKNOWN_WAIT_S else ""
