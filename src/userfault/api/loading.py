"""`lazy()` of a function finds it first: in the process that will call it.

What cannot be found, or fails while it is loaded, is told where the mistake was made, and not by a
page that no one can read.  The module runs in the worker process alone, as before; that process
then makes the first read, so that nothing is done twice.

It is done once for a function and a `Pager`: of many mappings, whose functions may never be called,
only the first has a process started for it.
"""

from __future__ import annotations

import contextlib
import time
import weakref

from userfault.api.pager import Pager
from userfault.api.undisturbed import unwanted
from userfault.kernel.errors import PagerError, SourceError
from userfault.kernel.memtypes import Memory, round_up
from userfault.linux.unpatched import original
from userfault.pager.core.policy import Policy
from userfault.pager.drivers.wire import messages
from userfault.source.spec import FunctionSpec, Resolved

_LEAST_S = 60.0  # to start an interpreter and import what is large, from a cold disk
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.002, 0.05

_Known = set[tuple[str, tuple[bytes, ...]]]
_known: weakref.WeakKeyDictionary[Pager, _Known] = weakref.WeakKeyDictionary()


def load(pager: Pager, number: int, resolved: Resolved, policy: Policy, memory: Memory) -> None:
    """Have `pager` load the function of `resolved` for the mapping `number`, and wait for it.

    Nothing for other sources, and for a function that this pager has loaded before.  Raises
    SourceError where it cannot be loaded, or takes longer than 60 s and the policy's `deadline_s`.
    """
    spec = resolved.spec
    if not isinstance(spec, FunctionSpec):
        return
    known = _known.setdefault(pager, set())
    key = (spec.target, spec.path)
    if key in known:
        return
    slot = round_up(policy.most_read, memory.page_size)
    request = messages.Load(number, spec, slot)
    fds = [resolved.fd] if resolved.fd >= 0 else []
    try:
        _wait(pager, request, fds, max(policy.deadline_s, _LEAST_S))
    except BaseException:  # Ctrl-C included: a shared pager must not keep the process
        with contextlib.suppress(PagerError):
            pager.request(messages.Detach(number))
        raise
    known.add(key)


def _wait(pager: Pager, request: messages.Load, fds: list[int], longest_s: float) -> None:
    end = time.monotonic() + longest_s
    pause, pause_here = _FIRST_LOOK_S, original("time", "sleep")
    while True:
        reply = pager.request(request, fds)
        assert isinstance(reply, messages.Loaded)
        if reply.ready:
            return
        what = f"cannot load the source {request.source.target}"
        if reply.failure:
            raise SourceError(
                what,
                cause=reply.failure.removeprefix(f"{what}: "),
                cure="make the module importable from the paths of this program, without errors",
            )
        if time.monotonic() > end:
            raise SourceError(
                what,
                cause=f"to start a process and import its module took longer than {longest_s:g} s",
                cure="see what the module waits for, or raise the policy's deadline_s",
            )
        if unwanted():
            raise SourceError(what, cause="lazy() was interrupted", cure="call it again")
        pause_here(pause)
        pause = min(pause * 1.5, _LONGEST_LOOK_S)
