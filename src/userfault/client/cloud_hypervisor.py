"""Cloud Hypervisor, as a daemon restores it and delivers its pages on demand.

From its documents (docs/snapshot_restore.md, vm-migration/src/protocol.rs): it listens; a sender
connects and says Start, MemoryFd for each piece of memory (none: the memory is private), Config,
then connects again with role 2, and says State and Complete.  From State on, pages are asked for by
the second connection, one at a time: a request of 16 bytes with {gpa, length}, answered by length 0
(the bytes are in the memfd) or by the bytes.  All memory is asked for in the background, too.

53 registers MISSING and wakes after the answer; later releases register MINOR as well, and map the
page by UFFDIO_CONTINUE.  Both ask again for a page whose hole the balloon has punched: zeros then.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import resource
import select
import socket
import struct
import threading
from typing import Any

import msgspec

from userfault.client import talking
from userfault.client.board import SLOTS, Board, Step
from userfault.client.expected import Expected
from userfault.client.memory import Image, Region
from userfault.client.results import Said
from userfault.client.touching import Walk, Walker
from userfault.kernel.errors import KernelError
from userfault.kernel.events import PageFault
from userfault.kernel.modes import Feature, Mode
from userfault.linux import libc, pidfd
from userfault.linux.uffd import LiveUserfaultfd
from userfault.uapi import mman

FORMS = ("newest", "v53")
_START, _CONFIG, _STATE, _, _COMPLETE, _ABANDON, _MEMORY_FD, _PAUSED, _FAULT = range(1, 10)
_REQUEST = struct.Struct("<H6xQ")  # and a response: status in place of the command
_RANGE = struct.Struct("<QQ")
_OK = 1
_FAULT_ROLE = 2
_LONGEST = 64 << 20  # bytes of a configuration or a state
_BACKGROUND = SLOTS - 1


class CloudHypervisor(msgspec.Struct, frozen=True):
    """What is posed.  It listens at `socket` for `wait_s` seconds."""

    socket: str
    image: str
    walk: Walk = Walk()
    form: str = "newest"
    wait_s: float = 60.0


class Piece(msgspec.Struct, frozen=True):
    """Guest memory: where the guest sees it, and where it is here."""

    gpa: int
    region: Region


class Memory:
    """All of it, once the configuration is known."""

    def __init__(self, config: bytes, memfds: dict[int, int], form: str) -> None:
        self.shared = bool(memfds)
        self._memfds = memfds
        self.pieces: list[Piece] = []
        self._offsets: list[tuple[int, int]] = []  # of each piece: memfd, and where in it
        offset = 0
        for each in _mappings(config):
            address = self._mapped(each)
            self.pieces.append(Piece(each["gpa"], Region(address, each["size"], offset)))
            offset += each["size"]
        minor = self.shared and form == "newest"
        features = Feature.MISSING_SHMEM if self.shared else Feature(0)
        self.uffd = LiveUserfaultfd.open(features | (Feature.MINOR_SHMEM if minor else Feature(0)))
        mode = Mode.MISSING | (Mode.MINOR if minor else Mode(0))
        for piece in self.pieces:
            self.uffd.register(piece.region.address, piece.region.size, mode)

    def _mapped(self, each: dict[str, Any]) -> int:
        size, access = each["size"], mman.PROT_READ | mman.PROT_WRITE
        if not self.shared:
            flags = mman.MAP_PRIVATE | mman.MAP_ANONYMOUS | mman.MAP_NORESERVE
            return libc.mmap(0, size, access, flags, -1, 0)
        memfd, at = self._memfds[each["slot"]], each["file_offset"]
        self._offsets.append((memfd, at))
        return libc.mmap(0, size, access, mman.MAP_SHARED, memfd, at)

    def piece_at(self, address: int) -> Piece:
        """The one that an address is in."""
        return next(
            piece
            for piece in self.pieces
            if piece.region.address <= address < piece.region.address + piece.region.size
        )

    def give_back(self, address: int, length: int) -> None:
        """As the balloon does: a hole in the memfd; private memory is dropped."""
        if not self.shared:
            libc.madvise(address, length, mman.MADV_DONTNEED)
            return
        piece = self.piece_at(address)
        memfd, at = self._offsets[self.pieces.index(piece)]
        mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE
        libc.fallocate(memfd, mode, at + address - piece.region.address, length)


class Asking:
    """The connection by which pages are asked for, and what is done with the answers."""

    def __init__(self, channel: socket.socket, memory: Memory, form: str) -> None:
        self._channel = channel
        self._memory = memory
        self._continues = memory.shared and form == "newest"
        self._page = mmap.PAGESIZE
        self._lock = threading.Lock()  # one request at a time

    def faults(self) -> None:
        """Serve the faults of all threads, for ever."""
        poll = select.poll()
        poll.register(self._memory.uffd.fileno(), select.POLLIN)
        while True:
            poll.poll()
            for event in self._memory.uffd.read():
                if isinstance(event, PageFault):
                    self.ask(event.address & -self._page)

    def all(self, board: Board) -> None:
        """Ask for everything, as the background walk does."""
        for piece in self._memory.pieces:
            start, end = piece.region.address, piece.region.address + piece.region.size
            for address in range(start, end, self._page):
                board.begin(_BACKGROUND, Step.ANSWER, address)
                self.ask(address)
                board.end(_BACKGROUND)

    def ask(self, address: int) -> None:
        """Have the page at this address come in.  A daemon that does not do it ends this process:
        all threads would only wait."""
        piece = self._memory.piece_at(address)
        gpa = piece.gpa + address - piece.region.address
        with self._lock:  # to the end: nobody else is to read what follows a wrong answer
            try:
                while not self._put(address, self._answer(gpa)):
                    pass
            except talking.RefusedError as error:
                talking.say(Said(refused=f"{error} (page at gpa {gpa:#x})"))
                os._exit(0)

    def _answer(self, gpa: int) -> bytes:
        """Of one request.  Raises RefusedError."""
        due = 0 if self._memory.shared else self._page
        asked = _REQUEST.pack(_FAULT, _RANGE.size) + _RANGE.pack(gpa, self._page)
        try:
            self._channel.sendall(asked)
            status, length = _REQUEST.unpack(_whole(self._channel, _REQUEST.size))
            if status != _OK:
                raise talking.RefusedError(f"it answered with status {status}")
            if length != due:
                raise talking.RefusedError(f"it answered {length} bytes where {due} are due")
            return _whole(self._channel, length)
        except OSError as error:
            text = error.strerror or str(error)
            raise talking.RefusedError(f"it answers no more: {text}") from None

    def _put(self, address: int, content: bytes) -> bool:
        """Map it; False where it has to be asked for again."""
        uffd = self._memory.uffd
        try:
            if content:
                uffd.copy(address, content, self._page)
            elif self._continues:
                uffd.continue_(address, self._page)
            else:
                uffd.wake(address, self._page)
        except KernelError as error:
            if error.errno == errno.EFAULT:  # the balloon has punched a hole there meanwhile
                return False
            if error.errno != errno.EEXIST:
                raise
            uffd.wake(address, self._page)
        return True


def run(asked: CloudHypervisor, board: Board) -> None:
    """Listen, be restored, touch, and tell."""
    with socket.socket(socket.AF_UNIX) as listening:
        # By another name first: who sees the path may connect at once.
        listening.bind(new := f"{asked.socket}.{os.getpid()}")
        listening.listen()
        try:
            os.link(new, asked.socket)  # and not over somebody else's
        finally:
            os.unlink(new)
        try:
            listening.settimeout(asked.wait_s)
            talking.say(Said(stage="listening"))
            restored = _Restored(asked, board, listening)
        finally:
            os.unlink(asked.socket)
    restored.walk()


class _Restored:
    """A VM that has been told everything."""

    def __init__(self, asked: CloudHypervisor, board: Board, listening: socket.socket) -> None:
        self._asked = asked
        self._board = board
        self._listening = listening
        self._memfds: dict[int, int] = {}
        self._config = b""
        self.asking: Asking | None = None
        self.memory: Memory | None = None
        self._main = self._accepted("no restorer came")
        while self._request():
            pass

    def _accepted(self, otherwise: str) -> socket.socket:
        try:
            channel, _ = self._listening.accept()
        except TimeoutError:
            raise talking.RefusedError(f"{otherwise} within {self._asked.wait_s:g} s") from None
        channel.settimeout(self._asked.wait_s)
        return channel

    def _request(self) -> bool:
        """One of the main connection; False after the last one."""
        try:
            command, length = _REQUEST.unpack(_whole(self._main, _REQUEST.size))
            if length > _LONGEST:
                raise talking.RefusedError(f"command {command} with {length} bytes")
            payload = b"" if command == _MEMORY_FD else _whole(self._main, length)
            self._carry_out(command, payload)
            self._main.sendall(_REQUEST.pack(_OK, 0))
        except OSError as error:
            raise talking.RefusedError(f"the restore stopped: {error.strerror or error}") from None
        return command not in (_COMPLETE, _PAUSED)

    def _carry_out(self, command: int, payload: bytes) -> None:
        if command == _MEMORY_FD:
            received = pidfd.receive(self._main, 4, 1)
            if len(received.data) != 4 or len(received.fds) != 1:
                raise talking.RefusedError("MemoryFd without a slot and one descriptor")
            self._memfds[int.from_bytes(received.data, "little")] = received.fds[0]
        elif command == _CONFIG:
            self._config = payload
        elif command == _STATE:
            self._open()
        elif command == _ABANDON:
            raise talking.RefusedError("it abandoned the restore")
        elif command not in (_START, _COMPLETE, _PAUSED):
            raise talking.RefusedError(f"command {command} in the middle of a restore")

    def _open(self) -> None:
        """The connection for pages; restoring devices touches memory already."""
        channel = self._accepted("no connection for page faults came")
        if int.from_bytes(_whole(channel, 2), "little") != _FAULT_ROLE:
            raise talking.RefusedError("the second connection has another role than page faults")
        channel.settimeout(None)  # an answer that does not come is a thread that waits: seen so
        self.memory = Memory(self._config, self._memfds, self._asked.form)
        self.asking = Asking(channel, self.memory, self._asked.form)
        threading.Thread(target=self.asking.faults, daemon=True).start()
        for piece in self.memory.pieces:
            self._board.begin(0, Step.READ, piece.region.address)
            libc.read_memory(piece.region.address, 8)
            self._board.end(0)

    def walk(self) -> None:
        """Touch, while everything is asked for in the background."""
        if self.memory is None or self.asking is None:
            raise talking.RefusedError("the restore was complete without a State")
        image = Image(self._asked.image, mmap.PAGESIZE)
        regions = [piece.region for piece in self.memory.pieces]
        total = sum(region.size for region in regions)
        if image.bytes != total:
            raise talking.RefusedError(f"memory of {total} bytes, an image of {image.bytes}")
        expected = Expected(image, regions, mmap.PAGESIZE)
        background = threading.Thread(target=self.asking.all, args=(self._board,))
        walker = Walker(
            self._asked.walk,
            expected,
            image,
            self._board,
            before_check=background.join,
            give_back=self.memory.give_back,
        )
        talking.say(Said(stage="sent", steps=walker.steps))
        background.start()
        talking.say(Said(stage="ended", result=walker.run()))


def _mappings(config: bytes) -> list[dict[str, Any]]:
    """`guest_ram_mappings`, wherever it is in the configuration."""
    try:
        todo: list[Any] = [json.loads(config)]
    except ValueError:
        raise talking.RefusedError("a configuration that is no JSON") from None
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if isinstance(value.get("guest_ram_mappings"), list):
                found: list[dict[str, Any]] = value["guest_ram_mappings"]
                return found
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    raise talking.RefusedError("a configuration without guest_ram_mappings")


def _whole(channel: socket.socket, length: int) -> bytes:
    """So many bytes.  Raises OSError where they do not come."""
    found = bytearray()
    while len(found) < length:
        part = channel.recv(length - len(found))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
        found += part
    return bytes(found)


def main() -> None:
    """The process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked, board = talking.told(CloudHypervisor)
    with talking.telling():
        run(asked, board)
    os._exit(0)


if __name__ == "__main__":
    main()
