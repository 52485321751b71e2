"""A process that gets pages from a page server for a daemon's family, and outlives its workers.

It has the one connection that a page server takes.  Workers reach it by a socket that the family
keeps (`source.pages`); when nobody has the other end of that any more, it ends.  The page server is
told that all went well (CLOSE) when the restore is over and each of its tasks needs no page any
more; in any other case the connection just ends, which fails the dump there and lets the program
go on where it was.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import socket
import threading
from array import array

import msgspec

from userfault.kernel.errors import PagerError, UsageError, UserfaultError
from userfault.linux.pidfd import close_all, receive
from userfault.pager.core.segment import Segment
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.say import say
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.serve.criu_memory import Tree
from userfault.serve.page_server.asking import Asking, Peer
from userfault.snapshot.inputs.criu_images import LAZY, memory, page_map, tasks
from userfault.snapshot.inputs.protocol import PAGE
from userfault.source.pages import ANSWER, DONE, FINISHED, LINE, REQUEST
from userfault.source.spec import PagesSpec, Resolved

_UP_S = 60.0
_PACKET = 1 << 16
_MOST_LINES = 1024
_MOST_ASKED = 1024  # pages at once
_MOST_BYTES = 64 << 20  # of one request of a worker
_MOST_RUNS = 1 << 14  # of pages, each of which is recorded with its task


class Start(msgspec.Struct):
    """What the process is told first; `tree` is in a memfd that comes along."""

    peer: Peer


class Started(msgspec.Struct):
    """How its connection went: nothing in it where it is there."""

    what: str = ""
    cause: str = ""
    cure: str = ""


class Pulled(msgspec.Struct):
    """A source that is reached through such a process, and which pages each task has of it."""

    source: Resolved
    tree: Tree


def pull(peer: Peer, images: str) -> Pulled:
    """Start the process.  `images`: the folder of the dump, without its lazy pages.

    Raises FormatError for images, UsageError where they leave no page to the page server, and what
    keeps it from being reached.
    """
    tree = tree_in(images)
    length = PAGE * max(
        segment.page + (segment.end - segment.start) // PAGE
        for segments in tree.values()
        for segment in segments
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as undo:
        undo.callback(ours.close)
        with theirs:
            told = os.memfd_create("userfault-pages", os.MFD_CLOEXEC)
            try:
                with open(told, "wb", closefd=False) as file:
                    file.write(msgspec.msgpack.encode(tree))
                socket.send_fds(ours, [msgspec.msgpack.encode(Start(peer))], [told])
            finally:
                os.close(told)
            spawn_python(__name__, "main", theirs.fileno(), lean_path())
        ours.settimeout(_UP_S)
        answer = _started(ours, peer)
        if answer.what:
            raise UsageError(answer.what, cause=answer.cause, cure=answer.cure)
        ours.settimeout(None)
        undo.pop_all()
    return Pulled(Resolved(PagesSpec(length, str(peer)), ours.detach()), tree)


def _started(channel: socket.socket, peer: Peer) -> Started:
    try:
        data = channel.recv(_PACKET)
    except TimeoutError:
        data = b""
    if not data:
        raise PagerError(
            f"the process that asks {peer} did not come up",
            cause="it has ended, or says nothing",
            cure="standard error may say more",
        )
    return msgspec.msgpack.decode(data, type=Started)


def tree_in(images: str) -> Tree:
    """Which pages a lazy restore asks for, of each task, one after the other in the source.

    Within a task in the order of addresses, no range across the border of two areas.
    """
    tree: Tree = {}
    page = runs = 0
    for task in tasks(images):
        found: list[Segment] = []
        for start, end, goes_on in _ranges(images, task):
            if goes_on:
                found[-1] = Segment(found[-1].start, end, found[-1].page)
            else:
                found.append(Segment(start, end, page))
            page += (end - start) // PAGE
        if found:
            tree[task] = tuple(found)
        runs = max(runs, len(found))
    if not tree or runs > _MOST_RUNS:
        raise UsageError(
            f"{images} for a restore from a page server",
            cause=f"a task has pages in {runs} places, and {_MOST_RUNS} are allowed"
            if tree
            else "no page of it may be restored lazily",
            cure="restore it without --lazy-pages",
        )
    return tree


def _ranges(images: str, task: int) -> list[tuple[int, int, bool]]:
    """Start, end, and whether it goes on from the one before, in the same area."""
    areas = memory(images, task).areas
    starts = [area.start for area in areas]
    entries = page_map(images, str(task))
    found: list[tuple[int, int, bool]] = []
    before = (0, -1)  # end, and number of the area
    for address, pages, flags in zip(entries.address, entries.pages, entries.flags, strict=True):
        if not flags & LAZY:
            continue
        at, stop = address, address + pages * PAGE
        number = max(bisect.bisect_right(starts, at) - 1, 0)
        while at < stop and number < len(areas):
            area = areas[number]
            low, high = max(at, area.start), min(stop, area.end)
            if low < high:
                found.append((low, high, before == (low, number)))
                before = high, number
                at = high
            number += 1
    return found


# --- the process ---------------------------------------------------------------------------------


def main(channel: socket.socket) -> None:
    """Its main program; `channel`: the socket to the family."""
    data, fds, *_ = receive(channel, _PACKET, 1)
    if not data:
        return
    start = msgspec.msgpack.decode(data, type=Start)
    held = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
    close_all(fds)
    tree = msgspec.msgpack.decode(held, type=Tree)
    try:
        asking = Asking(start.peer)
    except UserfaultError as error:
        channel.send(msgspec.msgpack.encode(Started(error.what, error.cause, error.cure)))
        return
    channel.send(msgspec.msgpack.encode(Started()))
    Pulling(channel, asking, tree, str(start.peer)).run()


class Pulling:
    """Serves lines of workers from `asking`, until nobody has the other end of `channel`."""

    def __init__(self, channel: socket.socket, asking: Asking, tree: Tree, name: str) -> None:
        self._channel = channel
        self._asking = asking
        self._name = name
        self._left = set(tree)
        self._finished = False
        self._lines = threading.Semaphore(_MOST_LINES)
        self._first, self._task, self._address = array("Q"), array("Q"), array("Q")
        self._pages = 0
        for task, segments in tree.items():
            for segment in segments:
                self._first.append(segment.page)
                self._task.append(task)
                self._address.append(segment.start)
                self._pages = segment.page + (segment.end - segment.start) // PAGE

    def run(self) -> None:
        """Hear who is there, and who needs nothing any more."""
        while self._left or not self._finished:
            data, fds, *_ = receive(self._channel, _PACKET, 1)
            if not data:
                break
            if data == LINE and fds:
                self._serve(fds.pop())
            elif data == FINISHED:
                self._finished = True
            elif len(data) == DONE.size:
                self._left.discard(DONE.unpack(data)[1])
            close_all(fds)
        finished = self._finished and not self._left
        try:
            self._asking.close(finished=finished)
        except UserfaultError as error:
            say(f"all pages of {self._name} are here, and it could not be told: {error}")
        else:
            if finished:
                say(f"all pages of {self._name} are here, and it was told so")

    def _serve(self, fd: int) -> None:
        """A line: a thread of its own."""
        line = socket.socket(fileno=fd)
        if not self._lines.acquire(blocking=False):
            line.close()
            return
        threading.Thread(target=self._hear, args=(line,), daemon=True).start()

    def _hear(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            while head := line.recv(REQUEST.size, socket.MSG_WAITALL):
                if len(head) < REQUEST.size:
                    break
                offset, length = REQUEST.unpack(head)
                try:
                    data = self._read(offset, length)
                except UserfaultError as error:
                    why = f"{error.what}: {error.cause}".encode()
                    line.sendall(ANSWER.pack(False, len(why)) + why)
                    continue
                line.sendall(ANSWER.pack(True, length))
                line.sendall(memoryview(data)[:length])
        self._lines.release()

    def _read(self, offset: int, length: int) -> bytes | bytearray:
        """These bytes of the source.  Raises UserfaultError."""
        page, count = offset // PAGE, -(-length // PAGE)
        if offset % PAGE or length > _MOST_BYTES or page + count > self._pages:
            raise PagerError(f"{length} bytes at {offset}", cause="there are no such pages")
        runs = list(self._runs(page, count))
        if len(runs) == 1:
            return self._asking.pages(*runs[0])
        # The first of each are asked for before any is waited for.
        asked = [self._asking.ask(*run) for run in runs]
        found = bytearray()
        for (task, address, pages), first in zip(runs, asked, strict=True):
            data = first.wait()
            found += data
            done = len(data) // PAGE
            if done < pages:
                found += self._asking.pages(task, address + done * PAGE, pages - done)
        return found

    def _runs(self, page: int, count: int) -> list[tuple[int, int, int]]:
        """Task, address and number of the pages."""
        found = []
        at = bisect.bisect_right(self._first, page) - 1
        while count:
            into = page - self._first[at]
            behind = self._first[at + 1] if at + 1 < len(self._first) else self._pages
            taken = min(count, behind - page, _MOST_ASKED)
            found.append((self._task[at], self._address[at] + into * PAGE, taken))
            page, count = page + taken, count - taken
            at += page >= behind
        return found
