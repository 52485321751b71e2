"""The file that a mapping's trace goes to: made by the client, with its rights, at its path."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import Memory
from userfault.pager.core import trace
from userfault.pager.core.plan import Plan
from userfault.pager.core.policy import Policy
from userfault.source.spec import Spec


def begun(policy: Policy, memory: Memory, pages: int, source: Spec) -> int:
    """A descriptor of the file `policy.trace` with the header in it; -1 without a trace.

    The lock on it is the open file's, so it lasts until the pager has closed it too: two mappings
    cannot write into one file.  Raises UsageError for a path that cannot be written.
    """
    if policy.trace is None:
        return -1
    plan = Plan(0, memory.page_size, policy)
    header = trace.Header(
        page_size=memory.page_size,
        pages=pages,
        memory=memory.name,
        source=str(source.__struct_config__.tag),
        begun_ns=time.monotonic_ns(),
        wall_s=time.time(),
        window_pages=plan.window_pages,
        background=policy.background,
    )
    what = f"policy trace={policy.trace!r}"
    if pages >= trace.MOST_PAGES:
        cause = f"{pages} pages are more than a trace can tell of"
        raise UsageError(what, cause=cause, cure="use larger pages")
    with contextlib.ExitStack() as undo:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(policy.trace, flags, 0o600)
            undo.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.write(fd, trace.begin(header))
        except BlockingIOError:
            cause = "another mapping writes its trace there"
            raise UsageError(what, cause=cause, cure="a path for each mapping") from None
        except OSError as error:
            cause = os.strerror(error.errno or 0)
            raise UsageError(what, cause=cause, cure="name a file that can be written") from None
        undo.pop_all()
    return fd
