"""The keeper: the process of a user that holds the copies, and does nothing else with them.

It maps each copy and registers the mapping with a userfaultfd, the *filler*; whoever has that puts
pages into the copy from a process of his own (UFFDIO_COPY reads the caller's memory and fills that
of the process which made the userfaultfd).  So the keeper touches no page, and may be busy, stopped
or killed without anybody having to wait for it.  After the mapping is made the memfd is sealed:
nobody can map it writable any more, nor write, punch or cut it, whatever rights he has.

The pages are charged to the keeper's memory cgroup, whoever brings them, since they are filled in
by way of its address space (mem_cgroup_charge of the destination; measured on 6.18).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time

from userfault.kernel.errors import UserfaultError
from userfault.kernel.memtypes import BASE_PAGE
from userfault.kernel.modes import Feature, Mode
from userfault.linux import pidfd, rights
from userfault.linux.descriptors import allow_all
from userfault.linux.libc import mmap, munmap
from userfault.linux.pidfd import close_all
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.drivers.shared import place, words
from userfault.uapi import mman

LINGER_S = 5.0  # without a copy and without anybody who asks
_BACKLOG = 128
_SEALS = mman.F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MARK_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MEMFD = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING


class Copy:
    """One copy, empty at first.  Raises OSError and UserfaultError where it cannot be made.

    `users`: the connections that claim it.  `keep_s`: how long to keep it without any.
    `free_at`: when it is given up, once nobody claims it.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.users: set[int] = set()
        self.keep_s = 0.0
        self.free_at = 0.0
        self._length = pages * BASE_PAGE
        self.address = 0
        with contextlib.ExitStack() as undo:
            whole = os.memfd_create("userfault-copy", _MEMFD)
            undo.callback(os.close, whole)
            os.ftruncate(whole, self._length)
            both = mman.PROT_READ | mman.PROT_WRITE
            self.address = mmap(0, self._length, both, mman.MAP_SHARED, whole, 0)
            undo.callback(munmap, self.address, self._length)
            self._filler = LiveUserfaultfd.open(Feature(0), user_mode_only=True)
            undo.callback(self._filler.close)
            self._filler.register(self.address, self._length, Mode.MISSING)
            fcntl.fcntl(whole, fcntl.F_ADD_SEALS, _SEALS)
            self._marks = os.memfd_create("userfault-copy-marks", _MEMFD)
            undo.callback(os.close, self._marks)
            os.ftruncate(self._marks, pages)
            fcntl.fcntl(self._marks, fcntl.F_ADD_SEALS, _MARK_SEALS)
            self._readable = os.open(f"/proc/self/fd/{whole}", os.O_RDONLY | os.O_CLOEXEC)
            undo.pop_all()
        os.close(whole)

    @property
    def descriptors(self) -> list[int]:
        """The copy, open for reading; its filler; its marks."""
        return [self._readable, self._filler.fileno(), self._marks]

    def close(self) -> None:
        """Let go of it: what is mapped of it elsewhere lives on.

        Its addresses are given to no other copy: UFFDIO_COPY fills whatever is registered there, by
        whichever userfaultfd (mfill_atomic() asks for one, not for the caller's).
        """
        self._filler.close()
        nothing = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE | mman.MAP_FIXED
        mmap(self.address, self._length, mman.PROT_NONE, nothing, -1, 0)
        close_all([self._readable, self._marks])


class Keeper:
    """Gives out copies on `listener`, until nobody wants any."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._copies: dict[bytes, Copy] = {}
        self._asking: dict[int, socket.socket] = {}  # connected, and what they want is yet to come
        self._using: dict[int, tuple[socket.socket, bytes]] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._idle_at = time.monotonic() + LINGER_S

    def run(self) -> None:
        """Until there has been nothing to do for a while."""
        while True:
            now = time.monotonic()
            self._free(now)
            until = self._until(now)
            if until is not None and until <= 0:
                return
            for fd, _ in self._poll.poll(None if until is None else until * 1000 + 1):
                self._ready(fd)

    def _until(self, now: float) -> float | None:
        """Seconds until something is due; None: for ever."""
        if self._asking or self._using:
            self._idle_at = now + LINGER_S
        due = [copy.free_at for copy in self._copies.values() if not copy.users]
        if not self._copies and not self._asking:
            due.append(self._idle_at)
        return min(due) - now if due else None

    def _free(self, now: float) -> None:
        for key, copy in list(self._copies.items()):
            if not copy.users and copy.free_at <= now:
                copy.close()
                del self._copies[key]
                self._idle_at = now + LINGER_S

    def _ready(self, fd: int) -> None:
        if fd == self._listener.fileno():
            with contextlib.suppress(OSError):  # gone already, or no descriptor left
                channel = self._listener.accept()[0]
                channel.setblocking(False)
                self._asking[channel.fileno()] = channel
                self._poll.register(channel, select.POLLIN)
        elif fd in self._asking:
            self._answer(fd)
        elif fd in self._using:
            self._left(fd)

    def _answer(self, fd: int) -> None:
        channel = self._asking.pop(fd)
        data = b""
        with contextlib.suppress(OSError):
            data = channel.recv(words.MOST)
        ask = words.Ask.decode(data) if data else None
        why = "" if ask else "it asks in another version's words" if data else "it has gone"
        why = why or _less_than_ours(channel)
        if ask is not None and not why:
            why = self._grant(channel, ask)
        if why:
            self._poll.unregister(fd)
            with contextlib.suppress(OSError):
                channel.send(words.refused(why))
            channel.close()

    def _grant(self, channel: socket.socket, ask: words.Ask) -> str:
        """Give out a copy; why not, if not."""
        fd = channel.fileno()
        try:
            copy = self._copies.get(ask.key)
            if copy is None:
                copy = self._copies[ask.key] = Copy(ask.pages)
            if copy.pages != ask.pages:
                return f"the copy of that name has {copy.pages} pages"
            socket.send_fds(channel, [words.granted(copy.address)], copy.descriptors)
        except UserfaultError as error:
            return f"{error.what}: {error.cause}"
        except OSError as error:
            return os.strerror(error.errno or 0)
        copy.users.add(fd)
        copy.keep_s = max(copy.keep_s, ask.keep_s)
        self._using[fd] = channel, ask.key
        return ""

    def _left(self, fd: int) -> None:
        """Whoever held this connection is gone (or speaks, which nobody has to)."""
        channel, key = self._using.pop(fd)
        self._poll.unregister(fd)
        channel.close()
        copy = self._copies[key]
        copy.users.discard(fd)
        copy.free_at = time.monotonic() + copy.keep_s


def _less_than_ours(channel: socket.socket) -> str:
    """Why whoever connected gets nothing; "" for nothing.

    Who is not to be seen gets nothing either: it is in another pid namespace, or has ended.
    """
    sender = pidfd.made_by(channel)
    if sender.uid == os.geteuid() and not os.access(f"/proc/{sender.pid}/status", os.R_OK):
        return "it is not to be seen in the keeper's /proc"
    return rights.lost_by(sender)


def work(channel: socket.socket) -> None:
    """The main program: become nobody's child, and say so by the end of the one that was started.

    `channel`: who started it, for as long as there may be something to say.
    """
    try:
        with place.folder() as folder:
            lock = os.open(
                place.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600,
                dir_fd=folder,
            )  # fmt: skip
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another one keeps, or is about to
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place.SOCKET, dir_fd=folder)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(place.path_in(folder, place.SOCKET))
            keep = os.dup(folder)
    except (UserfaultError, OSError) as error:
        channel.send(str(error).encode()[: words.MOST])
        return
    up, said_up = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(said_up)
        os.read(up, 1)
        os._exit(0)
    listener.listen(_BACKLOG)  # here, since it is who listens that the other end is told of
    for held in (up, said_up, channel.detach()):
        os.close(held)
    _alone()
    Keeper(listener).run()
    # From here on nobody comes any more; who came meanwhile finds a connection that ends, and asks
    # another one.
    with contextlib.suppress(OSError):
        os.unlink(place.SOCKET, dir_fd=keep)
    listener.close()
    os.close(lock)


def _alone() -> None:
    """Nothing of whoever started it is kept: no folder, no standard error, no limit of his."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    os.close(nothing)
    allow_all()
