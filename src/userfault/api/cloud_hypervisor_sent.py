"""A snapshot that Cloud Hypervisor sends, as to another host: the VM's own memory is read.

It connects (`send-migration destination_url=unix:PATH,local=on`), hands over a memfd for each
memory slot, its configuration and state, and waits: as soon as it is answered, the source may go
away or run on.  So the answer comes when everything is packed (docs/snapshot_restore.md of Cloud
Hypervisor, "Critical invariant on snapshot").
"""

from __future__ import annotations

import contextlib
import os
import socket

from userfault.kernel.errors import PagerError, UserfaultError
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.serve import sockets
from userfault.snapshot.errors import FormatError
from userfault.snapshot.inputs.cloud_hypervisor import CloudHypervisorInput, Piece
from userfault.snapshot.inputs.cloud_hypervisor_machine import MOST_BYTES, Machine, of_messages
from userfault.wire import cloud_hypervisor as wire
from userfault.wire.cloud_hypervisor import Command, Status

_SENDS_S = 60.0  # between two messages
_MOST_SLOTS = 256
_ENDS = (Command.COMPLETE, Command.COMPLETE_PAUSED)


class Sent(contextlib.AbstractContextManager["Sent"]):
    """One snapshot that comes at `path`: `pages` to be packed within, and then answered.

    Waits until somebody connects and has said everything.  Left in peace, the sender is told that
    all is kept; by an exception, that it is not, and its VM goes on.  Raises UsageError for the
    path, PagerError and FormatError for what is no such snapshot.
    """

    def __init__(self, path: str) -> None:
        self._memories: dict[int, int] = {}
        self._messages: dict[Command, bytes] = {}
        self._channel = _connected(path)
        try:
            self.pages = self._received()
        except BaseException as error:
            self._refuse(error)
            raise

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.pages.close()
        with contextlib.suppress(OSError):  # it has gone: what was packed is right all the same
            self._channel.sendall(wire.response(Status.OK if kind is None else Status.ERROR))
        self._channel.close()

    def _received(self) -> CloudHypervisorInput:
        began = False
        while (request := self._request()).command not in _ENDS:
            if began is (request.command is Command.START):
                raise _strange(f"{request.command.name} is not what comes first, or comes again")
            began = True
            self._take(request)
            self._channel.sendall(wire.response(Status.OK))
        for each in (Command.CONFIG, Command.STATE):
            if each not in self._messages:
                raise _strange(f"it ends without {each.name}")
        config, state = self._messages[Command.CONFIG], self._messages[Command.STATE]
        machine = of_messages(config, state, slots=True)
        return CloudHypervisorInput(machine, self._pieces(machine))

    def _request(self) -> wire.Request:
        return wire.read_request(self._exactly(wire.HEADER))

    def _take(self, request: wire.Request) -> None:
        command, length = request.command, request.length
        if command is Command.START:
            if request.version != wire.VERSION:
                raise _strange(f"version {request.version}, {wire.VERSION} is spoken")
        elif command is Command.MEMORY_FD:
            self._take_memory(length)
        elif command in (Command.CONFIG, Command.STATE):
            if length > MOST_BYTES:
                raise _strange(f"{command.name} of {length} bytes, {MOST_BYTES} are allowed")
            self._messages[command] = self._exactly(length)
        elif command is Command.ABANDON:
            self._channel.sendall(wire.response(Status.OK))
            raise PagerError(
                "the snapshot was given up", cause="its sender says so", cure="see its own log"
            )
        else:
            raise _strange(
                f"{command.name}: memory that is not shared is sent in pieces, which is not taken"
            )

    def _take_memory(self, length: int) -> None:
        """The slot's number comes with its memfd."""
        if length != wire.SLOT_SIZE or len(self._memories) >= _MOST_SLOTS:
            raise _strange(f"MEMORY_FD number {len(self._memories)} of {length} bytes")
        data, fds, lost, _ = pidfd.receive(self._channel, wire.SLOT_SIZE, 4)
        if len(data) < wire.SLOT_SIZE or len(fds) != 1 or lost:
            close_all(list(fds))
            raise _strange(f"MEMORY_FD with {len(fds)} descriptors")
        slot = wire.slot_of(data)
        if slot in self._memories:
            close_all(list(fds))
            raise _strange(f"slot {slot} twice")
        (self._memories[slot],) = fds

    def _pieces(self, machine: Machine) -> list[Piece]:
        pieces = []
        for slot in machine.slots:
            fd = self._memories.get(slot.slot, -1)
            if fd < 0 or os.fstat(fd).st_size < slot.file_offset + slot.size:
                raise _strange(f"slot {slot.slot} has no memfd, or one that is too short")
            pieces.append(Piece(fd, slot.file_offset, slot.size, f"slot {slot.slot}"))
        mine = {piece.fd for piece in pieces}
        close_all([fd for fd in self._memories.values() if fd not in mine])
        self._memories = {}
        return pieces

    def _exactly(self, size: int) -> bytes:
        came = bytearray()
        while len(came) < size:
            try:
                more = self._channel.recv(min(size - len(came), 1 << 20))
            except TimeoutError:
                raise _strange(f"nothing more within {_SENDS_S:g} s") from None
            if not more:
                raise _strange("it hung up in the middle")
            came += more
        return bytes(came)

    def _refuse(self, error: BaseException) -> None:
        close_all(list(self._memories.values()))
        with contextlib.suppress(OSError):
            if isinstance(error, UserfaultError):
                self._channel.sendall(wire.response(Status.ERROR))
        self._channel.close()


def _connected(path: str) -> socket.socket:
    """The first to connect at `path`, which is there for it alone."""
    bound = sockets.listening(os.path.abspath(path))
    try:
        with socket.socket(fileno=bound.fd) as listener:
            channel, _ = listener.accept()
    finally:
        sockets.unlink(os.path.abspath(path), bound.place)
    channel.settimeout(_SENDS_S)
    return channel


def _strange(cause: str) -> FormatError:
    return FormatError(
        "what was sent is no snapshot of Cloud Hypervisor",
        cause=cause,
        cure="pause the VM, and: ch-remote send-migration destination_url=unix:PATH,local=on",
    )
