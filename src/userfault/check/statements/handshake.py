"""Creating a descriptor, the handshake, read(2) and poll(2)."""

from __future__ import annotations

import os
import termios
from errno import EAGAIN, EINTR, EINVAL, EOPNOTSUPP, EPERM

from userfault.check.words.outcome import CannotRun, expect
from userfault.check.words.statement import statement
from userfault.check.words.thread import Thread
from userfault.check.words.trace import errno_name
from userfault.check.words.uffd import MISSING, POLLERR, Uffd
from userfault.kernel import calls
from userfault.kernel.calls import Ioctl, Read, ReadFd, Signal
from userfault.kernel.modes import Feature
from userfault.uapi import userfaultfd as abi

_MAN = "userfaultfd(2)"
_MAN_IOCTL = "ioctl_userfaultfd(2)"
_MEASURED = "measured on 6.1 to 7.3"

# Neither O_CLOEXEC, O_NONBLOCK nor UFFD_USER_MODE_ONLY.
_UNDEFINED_FLAG = 0x100
# No kernel has it, and it is far from those that come next.
_UNDEFINED_FEATURE = 1 << 60
_OTHER_VERSION = 0xAB
_SYSCTL = "vm/unprivileged_userfaultfd"


@statement(
    1,
    "userfaultfd(2) with an undefined flag fails with EINVAL.",
    since="4.3",
    source=_MAN,
)
def undefined_flags_are_refused(t: Thread) -> None:
    t.descriptor()  # we may have one at all
    t.fails(calls.Userfaultfd(_UNDEFINED_FLAG), EINVAL)
    t.fails(calls.Userfaultfd(os.O_NONBLOCK | _UNDEFINED_FLAG), EINVAL)


@statement(
    2,
    "Without CAP_SYS_PTRACE, and with vm.unprivileged_userfaultfd at 0, userfaultfd(0) fails with"
    " EPERM, and userfaultfd(UFFD_USER_MODE_ONLY) succeeds.",
    since="5.11",
    source=f"{_MAN}; the kernel's admin guide on userfaultfd",
)
def the_unprivileged_get_user_mode_only(t: Thread) -> None:
    if t.ok(calls.Sysctl(_SYSCTL)).value:
        raise CannotRun(f"{_SYSCTL} is not 0", cure="set it to 0, its default")
    t.ok(calls.DropCapability(calls.CAP_SYS_PTRACE))
    t.fails(calls.Userfaultfd(0), EPERM)
    t.fails(calls.Userfaultfd(_UNDEFINED_FLAG), EPERM)  # the flags are looked at later
    fd = t.ok(calls.Userfaultfd(abi.UFFD_USER_MODE_ONLY | os.O_NONBLOCK)).value
    t.ok(Uffd(t, fd).api())


@statement(
    3,
    "USERFAULTFD_IOC_NEW on /dev/userfaultfd gives a descriptor that works, and any other command"
    " on the device fails with EINVAL.",
    since="6.1",
    source=f"{_MAN}; {_MEASURED}",
)
def the_device_makes_descriptors(t: Thread) -> None:
    device = t.do(calls.Open(calls.File.USERFAULTFD, os.O_RDWR | os.O_CLOEXEC))
    if device.errno:
        raise CannotRun(f"/dev/userfaultfd: {errno_name(device.errno)}", cure="run as root")
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    made = t.ok(Ioctl(device.value, abi.USERFAULTFD_IOC_NEW, flags)).value
    t.fails(Ioctl(device.value, abi.USERFAULTFD_IOC_NEW, _UNDEFINED_FLAG), EINVAL)
    t.fails(Ioctl(device.value, abi.USERFAULTFD_IOC_NEW + 1, flags), EINVAL)
    u = Uffd(t, made)
    t.ok(u.api())
    area = t.map("anon")
    u.register(area.address, area.length, MISSING)


@statement(
    4,
    "Before UFFDIO_API, read(2) fails with EINVAL, poll(2) reports POLLERR, and any other ioctl"
    " fails with EINVAL.",
    since="4.3",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
)
def nothing_works_before_the_handshake(t: Thread) -> None:
    u = Uffd(t, t.descriptor())
    area = t.map("anon")
    t.fails(ReadFd(u.fd, 64), EINVAL)
    expect(u.revents(), POLLERR, "poll before the handshake")
    u.register(area.address, area.length, MISSING, fails=EINVAL)
    u.unregister(area.address, area.length, fails=EINVAL)
    u.wake(area.address, area.length, fails=EINVAL)
    expect(t.vma(area.address).flags, (), "flags of the mapping")


@statement(
    5,
    "UFFDIO_API with another version fails with EINVAL and zeroes the structure.",
    since="4.3",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
)
def another_version_is_refused(t: Thread) -> None:
    u = Uffd(t, t.descriptor())
    answer = t.fails(u.api(version=_OTHER_VERSION), EINVAL)
    expect(answer.data, bytes(abi.uffdio_api.size), "the structure")


@statement(
    6,
    "UFFDIO_API with an unsupported feature fails with EINVAL and zeroes the structure, and the"
    " descriptor can still be initialised.",
    since="4.3",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
)
def an_unknown_feature_is_refused(t: Thread) -> None:
    u = Uffd(t, t.descriptor())
    answer = t.fails(u.api(_UNDEFINED_FEATURE), EINVAL)
    expect(answer.data, bytes(abi.uffdio_api.size), "the structure")
    t.ok(u.api())


@statement(
    7,
    "UFFDIO_API returns every feature of the kernel and its general ioctls, whatever was asked.",
    since="4.3",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
    outcomes={"up to 7.2": "API, REGISTER, UNREGISTER", "since 7.3": "and SET_MODE"},
)
def the_handshake_tells_everything(t: Thread) -> None:
    answers = set()
    offered = t.offered_features()
    for asked in (Feature(0), Feature.EVENT_UNMAP, offered & Feature.SIGBUS):
        u = Uffd(t, t.descriptor())
        version, features, ioctls = abi.uffdio_api.struct.unpack(t.ok(u.api(asked)).data)
        expect(version, abi.UFFD_API, "the version")
        answers.add((features, ioctls))
    general = 1 << 0x3F | 1 << 0x01 | 1 << 0x00
    if t.since("7.3"):
        general |= 1 << 0x0A
    expect(answers, {(int(offered), general)}, "features and ioctls")


@statement(
    8,
    "A second UFFDIO_API after a successful one fails with EINVAL and zeroes the structure.",
    since="6.1",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
)
def the_handshake_is_done_once(t: Thread) -> None:
    u = t.uffd()
    answer = t.fails(u.api(), EINVAL)
    expect(answer.data, bytes(abi.uffdio_api.size), "the structure")
    area = t.map("anon")
    u.register(area.address, area.length, MISSING)  # the first one still holds


@statement(
    9,
    "EVENT_FORK without CAP_SYS_PTRACE fails with EPERM and zeroes the structure.",
    since="5.5",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
)
def fork_events_need_a_capability(t: Thread) -> None:
    u = Uffd(t, t.descriptor())
    t.ok(calls.DropCapability(calls.CAP_SYS_PTRACE))
    answer = t.fails(u.api(Feature.EVENT_FORK), EPERM)
    expect(answer.data, bytes(abi.uffdio_api.size), "the structure")
    t.ok(u.api(Feature.EVENT_REMAP))


@statement(
    10,
    "WP_ASYNC may be asked for alone; fdinfo then shows WP_UNPOPULATED too.",
    since="6.7",
    source=f"{_MAN_IOCTL}; {_MEASURED}",
)
def wp_async_brings_wp_unpopulated(t: Thread) -> None:
    u = t.uffd(Feature.WP_ASYNC)
    granted = _api_line(u)[1]
    wanted = Feature.WP_ASYNC | Feature.WP_UNPOPULATED
    expect(Feature(granted & wanted), wanted, "the features of fdinfo")
    plain = _api_line(t.uffd())[1]
    expect(Feature(plain & wanted), Feature(0), "the features of a descriptor without WP_ASYNC")


def _api_line(u: Uffd) -> tuple[int, ...]:
    """The `API:` line of fdinfo: version, features, ioctls."""
    lines = u.thread.ok(calls.Fdinfo(u.fd)).data.decode().splitlines()
    words = next(line for line in lines if line.startswith("API:")).split("\t")[1]
    return tuple(int(word, 16) for word in words.split(":"))


@statement(
    11,
    "RWP_ASYNC without RWP fails with EINVAL.",
    since="7.3",
    source="the kernel's admin guide on userfaultfd; measured on 7.3",
)
def rwp_async_needs_rwp(t: Thread) -> None:
    u = Uffd(t, t.descriptor())
    answer = t.fails(u.api(Feature.RWP_ASYNC), EINVAL)
    expect(answer.data, bytes(abi.uffdio_api.size), "the structure")
    t.ok(u.api(Feature.RWP_ASYNC | Feature.RWP))


@statement(
    12,
    "An unknown ioctl fails with EINVAL, not with ENOTTY.",
    since="4.3",
    source=_MEASURED,
)
def unknown_ioctls_are_invalid(t: Thread) -> None:
    u = t.uffd()
    for request in (abi.UFFDIO_REGISTER + 0x20, termios.TCGETS, 0):
        t.fails(Ioctl(u.fd, request, bytes(64)), EINVAL)


@statement(
    13,
    "poll(2) of a blocking descriptor reports POLLERR, even with a fault queued.",
    since="4.3",
    source=f"{_MAN}; {_MEASURED}",
)
def a_blocking_descriptor_cannot_be_polled(t: Thread) -> None:
    u, area = t.registered("anon", MISSING, flags=os.O_CLOEXEC)
    expect(u.revents(), POLLERR, "poll with nothing queued")
    reader = t.thread().blocks(Read(area.address, 1))
    expect(u.counts(), (1, 1), "faults that fdinfo counts")
    expect(u.revents(), POLLERR, "poll with a fault queued")
    u.copy(area.address, t.source(b"s"), area.page)
    reader.read(b"s")


@statement(
    14,
    "read(2) of fewer than 32 bytes fails with EINVAL.",
    since="4.3",
    source=_MEASURED,
)
def a_short_read_is_refused(t: Thread) -> None:
    u = t.uffd()
    t.fails(ReadFd(u.fd, abi.uffd_msg.size - 1), EINVAL)
    t.fails(ReadFd(u.fd, 0), EINVAL)
    area = t.map("anon")
    u.register(area.address, area.length, MISSING)
    t.thread().blocks(Read(area.address, 1))
    t.fails(ReadFd(u.fd, abi.uffd_msg.size - 1), EINVAL)
    u.fault(area.address, 0)  # the message was not lost


@statement(
    15,
    "A non-blocking read(2) with nothing queued fails with EAGAIN.",
    since="4.3",
    source=_MAN,
)
def an_empty_queue_is_eagain(t: Thread) -> None:
    u = t.uffd()
    t.fails(ReadFd(u.fd, abi.uffd_msg.size), EAGAIN)
    expect(u.revents(), 0, "poll")


@statement(
    16,
    "A blocking read(2) sleeps, and a signal without SA_RESTART ends it with EINTR.",
    since="4.3",
    source=f"signal(7); {_MEASURED}",
)
def a_signal_interrupts_a_blocking_read(t: Thread) -> None:
    u = t.uffd(flags=os.O_CLOEXEC)
    other = t.thread()
    read = other.blocks(ReadFd(u.fd, abi.uffd_msg.size), calls.WAITS_MESSAGE)
    t.ok(Signal(other.thread_id, restart=True))
    read.still("a signal with SA_RESTART")
    t.ok(Signal(other.thread_id))
    expect(errno_name(read.finish().errno), errno_name(EINTR), "the end of the read")


@statement(
    17,
    "read(2) returns whole messages only: 32 bytes for a buffer of 40 while two are queued.",
    since="4.3",
    source=_MEASURED,
)
def messages_are_read_whole(t: Thread) -> None:
    u, area = t.registered("anon", MISSING, pages=2)
    for page in range(2):
        t.thread().blocks(Read(area.at(page), 1))
    expect(t.ok(ReadFd(u.fd, 40)).value, abi.uffd_msg.size, "bytes read")
    u.fault(area.at(1), 0)


@statement(
    18,
    "A read with RWF_NOWAIT of a blocking descriptor with nothing queued fails at once.",
    since="6.1",
    source="preadv2(2); measured on 6.1 to 7.3",
    outcomes={"6.1": "EOPNOTSUPP", "since 6.12": "EAGAIN"},
)
def nowait_does_not_wait(t: Thread) -> None:
    u = t.uffd(flags=os.O_CLOEXEC)
    code = EAGAIN if t.since("6.12") else EOPNOTSUPP
    t.fails(ReadFd(u.fd, abi.uffd_msg.size, nowait=True), code)
