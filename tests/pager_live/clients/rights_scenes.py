"""What test_rights.py does in processes of its own: give up rights, and ask a pager for more."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import tempfile
from collections.abc import Callable
from importlib import import_module

import userfault
from helpers import child
from helpers.pages import PAGE, numbers, pages
from pager_live import functions
from userfault import Policy, UserfaultError, lazy
from userfault.kernel.memtypes import memory
from userfault.linux import rights
from userfault.linux.pidfd import Sender
from userfault.pager.drivers.wire import messages
from userfault.snapshot.serving import handover
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import Resolved

api = import_module("userfault.api.lazy")

DEMAND = Policy(background=False, retries=0)
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38  # linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero):
        raise OSError(ctypes.get_errno(), "prctl")


def drop_capabilities() -> None:
    """Stay root, without a capability, and with no way of having one again by execve."""
    for number in range(41):
        _prctl(_PR_CAPBSET_DROP, number)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def change_root() -> None:
    os.chroot(tempfile.mkdtemp())


def leave_group() -> None:
    os.setgroups([])


def no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def another_network() -> None:
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


def filtered() -> None:
    child.forbid_system_call(1 << 20, 1)  # a call that nobody makes


def another_group() -> None:
    os.setresgid(child.NOBODY, child.NOBODY, child.NOBODY)


DROPS: dict[str, Callable[[], None]] = {
    "user": child.become_nobody,
    "group": another_group,
    "groups": leave_group,
    "capabilities": drop_capabilities,
    "root directory": change_root,
    "no_new_privs": no_new_privileges,
    "seccomp": filtered,
    "network": another_network,
}


def refused(what: Callable[[], object]) -> str:
    """What an attempt was refused with; "" where it worked."""
    try:
        what()
    except UserfaultError as error:
        return str(error)
    return ""


def after_dropping(drop: str, store: str) -> list[object]:
    """Mappings made before go on being served, and new ones that need nothing but descriptors; what
    the pager would do in its own name it refuses."""
    os.setgroups([1, 2])
    with userfault.Pager() as pager:
        called = lazy(functions.numbered, length=4 * PAGE, pager=pager, policy=DEMAND)
        stored = lazy(store, pager=pager, policy=DEMAND)
        assert numbers(called[:PAGE]) == [1]
        again = handover.resolve(*place_of(store))  # type: ignore[misc]  # it is a store's
        DROPS[drop]()
        told = [
            refused(lambda: lazy(functions.numbered, length=PAGE, pager=pager)),
            refused(lambda: attach(again, pager)),
            refused(pager.replace),
        ]
        served = numbers(called[PAGE : 2 * PAGE]) + numbers(stored[PAGE : 2 * PAGE])
        with lazy(pages(7, 2), pager=pager, policy=DEMAND) as new:
            served += numbers(new[:])
        called.check()
        called.close()
        stored.close()
        again.close()
    return [told, served]


def attach(resolved: Resolved, pager: userfault.Pager) -> None:
    """As `lazy()` does once it has opened its source."""
    options = api.Options(memory("anon"), False, False, False, False, None)
    with contextlib.ExitStack() as undo:
        told: list[str] = []
        prepared = api._prepared_of(resolved, options, DEMAND, undo, fixed=True, tell=told.append)
        api._build(prepared, DEMAND, pager, undo, owned=False).close()


def a_pager_of_its_own() -> list[int]:
    """Whoever has dropped rights makes a new pager."""
    os.setgroups([1, 2])
    for drop in (leave_group, no_new_privileges, drop_capabilities):
        drop()
    with lazy(functions.numbered, length=2 * PAGE, policy=DEMAND) as mapped:
        return numbers(mapped[:])


def from_a_child() -> list[object]:
    """A forked child has the socket of its parent, and is told that the pager is not its own."""
    with userfault.Pager() as pager, lazy(pages(1, 4), pager=pager, policy=DEMAND) as mapped:
        read, write = os.pipe()
        channel = socket.socket(
            fileno=os.dup(pager._family.channel.fileno())
        )  # a child's is closed
        pid = os.fork()
        if not pid:
            sender = rights.credentials(os.geteuid(), os.getegid())
            messages.send(channel, 99, messages.Detach(mapped._parts.number), sender=sender)
            reply = messages.receive_reply(channel, 99)
            os.write(write, reply.what.encode() if isinstance(reply, messages.Refused) else b"done")
            os._exit(0)
        os.waitpid(pid, 0)
        told = os.read(read, 1000).decode()
        return [told, numbers(mapped[:])]


def claims_to_be_root() -> str:
    """The kernel lets nobody say that it has rights which it has not."""
    ours, _theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child.become_nobody()
    assert rights.credentials(0, 0) == (os.getpid(), child.NOBODY, child.NOBODY)
    try:
        messages.send(ours, 1, messages.Quit(), sender=Sender(os.getpid(), 0, 0))
    except PermissionError:
        return "refused"
    return "sent"


def for_a_while() -> list[int]:
    """Root that is another user for a while can come back, and so may ask."""
    with userfault.Pager() as pager:
        os.seteuid(child.NOBODY)
        source = functions.numbered
        with lazy(source, length=2 * PAGE, pager=pager, policy=DEMAND) as mapped:
            return numbers(mapped[:])
