"""Userfaultfd itself: who may open one, and whether faults and events come and are answered."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import threading
from collections.abc import Callable

from userfault.doctor.finding import Finding, degraded, missing, ok
from userfault.kernel.errors import KernelError, OpenRefused, UserfaultError
from userfault.kernel.events import PageFault
from userfault.kernel.memtypes import memory
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc
from userfault.linux.opening import DEVICE, SYSCTL, open_userfaultfd
from userfault.linux.process import LiveProcess
from userfault.linux.uffd import LiveUserfaultfd, offer

_ANSWER_MS = 5000
_PAGE = 4096
_EVENTS = Feature.EVENT_FORK | Feature.EVENT_REMAP | Feature.EVENT_REMOVE | Feature.EVENT_UNMAP


def device() -> Finding:
    """/dev/userfaultfd, opened."""
    why = "whoever may open it gets a userfaultfd without capabilities; a VMM in a jail needs it"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        code = error.errno or 0
        if code == errno.ENOENT:
            cure = "Linux 6.1 or newer; in a container pass it: --device /dev/userfaultfd"
        else:
            cure = f"chgrp and chmod 0660 {DEVICE}, for good by a udev rule (docs/privileges.md)"
        return missing("device", f"{DEVICE}: {os.strerror(code)}", why, cure)
    return ok("device", f"{DEVICE} can be opened", why)


def opening() -> Finding:
    """A context that serves every fault, by any way."""
    why = "faults of system calls and of KVM wait for nobody in a context of user mode only"
    try:
        opened = open_userfaultfd()
    except OpenRefused as error:
        return missing("opening", error.cause, why, error.cure)
    os.close(opened.fd)
    sysctl = f"{SYSCTL.removeprefix('/proc/sys/').replace('/', '.')} is {_read(SYSCTL)}"
    if opened.user_mode_only:
        try:
            os.close(open_userfaultfd(user_mode_only=False).fd)
        except OpenRefused as error:
            found = f"user mode only ({error.cause}; {sysctl})"
            return degraded("opening", found, why, error.cure)
    return ok("opening", f"by {opened.way}; {sysctl}", why)


def served() -> Finding:
    """A fault of a thread, and one of a system call: raised, read and filled."""
    why = "what all of this is about"
    try:
        touched = _faults(lambda address: libc.read_memory(address, 8))
        called = _faults(_by_system_call)
    except UserfaultError as error:
        cure = "see `opening`" if isinstance(error, OpenRefused) else error.cure or "report it"
        return missing("served", error.what, why, cure)
    if not touched:
        return missing("served", "a fault was raised, and not answered", why, "report it")
    if not called:
        cure = "get a context by one of the other ways: see `opening`"
        return degraded("served", "a system call on a missing page fails (EFAULT)", why, cure)
    return ok("served", "a fault of a thread and one of a system call were filled", why)


def events() -> Finding:
    """Each event, asked for in a handshake."""
    why = "balloons give memory back (remove), processes fork, move and unmap theirs"
    lacking = [each for each in _EVENTS if not _granted(each)]
    if not lacking:
        return ok("events", "fork, remap, remove and unmap", why)
    names = ", ".join((each.name or "").removeprefix("EVENT_").lower() for each in lacking)
    cure = "run with CAP_SYS_PTRACE of the initial user namespace"
    if lacking != [Feature.EVENT_FORK]:
        return missing("events", f"no event of {names}", why, "run Linux 4.11 or newer")
    return degraded("events", f"no event of {names}: children are not served", why, cure)


def minor() -> Finding:
    """A minor fault of shared memory: registered, raised by a touch, continued."""
    why = "memory that several processes map, and VMs over a shared memfd"
    try:
        with LiveUserfaultfd.open(Feature.MINOR_SHMEM) as uffd:
            mapping = LiveProcess().map(memory("shmem"), _PAGE)
            try:
                assert mapping.backing is not None
                mapping.backing.write(0, b"there")
                uffd.register(mapping.address, _PAGE, Mode.MINOR, memory=mapping.memory)
                came = _answered(
                    uffd,
                    lambda: libc.read_memory(mapping.address, 8),
                    lambda fault: uffd.continue_(fault.address & -_PAGE, _PAGE),
                )
            finally:
                mapping.close()
    except UserfaultError as error:
        cure = "see `opening`" if isinstance(error, OpenRefused) else "run Linux 5.14 or newer"
        return missing("minor", error.what, why, cure)
    if not came:
        return missing("minor", "a minor fault was not answered", why, "report it")
    return ok("minor", "a minor fault of shared memory was continued", why)


def poison() -> Finding:
    """A page, given up."""
    why = "a page that cannot be read raises SIGBUS; without it the whole client is ended"
    try:
        with LiveUserfaultfd.open(Feature.POISON) as uffd:
            mapping = LiveProcess().map(memory("anon"), _PAGE)
            try:
                uffd.register(mapping.address, _PAGE, Mode.MISSING)
                uffd.poison(mapping.address, _PAGE)
            finally:
                mapping.close()
    except UserfaultError as error:
        cure = "see `opening`" if isinstance(error, OpenRefused) else "run Linux 6.6 or newer"
        return degraded("poison", error.what, why, cure)
    return ok("poison", "a page was poisoned", why)


def features() -> Finding:
    """Those that other parts of this project use where the kernel has them."""
    why = "moving pages (6.8), tracking writes (6.7), write protection of shared memory (5.19)"
    wanted = Feature.WP_ASYNC | Feature.MOVE | Feature.WP_HUGETLBFS_SHMEM
    try:
        lacking = wanted & ~offer()[0]
    except UserfaultError as error:
        return missing("features", error.what, why, "see `opening`")
    if lacking:
        names = ", ".join(each.name or "" for each in lacking)
        return degraded("features", f"no {names}", why, "run Linux 6.8 or newer")
    return ok("features", "WP_ASYNC, MOVE, WP_HUGETLBFS_SHMEM", why)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        return error.strerror or "not to be read"


def _granted(feature: Feature) -> bool:
    try:
        LiveUserfaultfd.open(feature).close()
    except (UserfaultError, OSError):
        return False
    return True


def _by_system_call(address: int) -> bool:
    """Have the kernel write into the page."""
    with open("/dev/zero", "rb", buffering=0) as zeros:
        buffer = (ctypes.c_char * 8).from_address(address)
        return os.readv(zeros.fileno(), [buffer]) == 8


def _faults(touch: Callable[[int], object]) -> bool:
    """Whether a touch of a missing page is served."""
    content = b"filled".ljust(_PAGE, b"\0")
    with LiveUserfaultfd.open() as uffd:
        mapping = LiveProcess().map(memory("anon"), _PAGE)
        try:
            uffd.register(mapping.address, _PAGE, Mode.MISSING)
            return _answered(
                uffd,
                lambda: touch(mapping.address),
                lambda fault: uffd.copy(fault.address & -_PAGE, content, _PAGE),
            )
        finally:
            mapping.close()


def _answered(
    uffd: LiveUserfaultfd, touch: Callable[[], object], answer: Callable[[PageFault], object]
) -> bool:
    """Whether the touch, in a thread of its own, raises a fault and ends once that is answered."""
    failed = []

    def run() -> None:
        try:
            touch()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    poll = select.poll()
    poll.register(uffd.fileno(), select.POLLIN)
    while thread.is_alive() and not failed:
        ready = poll.poll(50)
        for event in uffd.read() if ready else ():
            if isinstance(event, PageFault):
                try:
                    answer(event)
                except KernelError as error:
                    failed.append(error)
                thread.join(_ANSWER_MS / 1000)
                if thread.is_alive():
                    uffd.wake_all()
                    return False
    thread.join()
    return not failed
