"""Restoring a VM of Cloud Hypervisor whose pages a daemon delivers as they are asked for.

The VMM listens (`receive-migration ...,memory_mode=postcopy`), and is told by its migration
protocol what it is to be.  That is done here, by whoever wants the restore, with its rights; what
is needed for as long as the VM lacks pages is handed to the daemon before it touches the first:
memfds, a connection for its page faults, the image (docs/snapshot_restore.md of Cloud Hypervisor).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time

import msgspec

from userfault.kernel.errors import PagerError, UsageError, UserfaultError
from userfault.kernel.memtypes import BASE_PAGE
from userfault.linux.pidfd import close_all
from userfault.serve.talking import Line
from userfault.snapshot.inputs import cloud_hypervisor
from userfault.snapshot.inputs.cloud_hypervisor_machine import Machine, of_messages
from userfault.snapshot.serving import handover
from userfault.snapshot.serving.either import open_either
from userfault.snapshot.serving.taking_up import take_up
from userfault.snapshot.stores.place import place_of
from userfault.source.spec import Resolved, Spec, StoreSpec, resolve
from userfault.uapi.mman import MFD_HUGE_SHIFT
from userfault.wire import cloud_hypervisor as wire

_LISTENS_S = 30.0  # how long the VMM is waited for
_ANSWERS_S = 600.0  # it restores its devices meanwhile
_MOST_SLOTS = 48  # descriptors of one message, less a few


class Snapshot(msgspec.Struct):
    """A VM, and where its memory comes from.  The descriptor is the holder's."""

    machine: Machine
    spec: Spec
    fd: int


def open_snapshot(what: str, *, second: str | None = None, cache: str | None = None) -> Snapshot:
    """A folder of Cloud Hypervisor's, or STORE/NAME.

    Raises UsageError, SourceError, StoreError, NoSuchSnapshot, FormatError.
    """
    if cloud_hypervisor.is_snapshot(what):
        return _of_folder(what)
    place = place_of(os.fsdecode(what))
    if place is None:
        raise UsageError(
            f"{what} is no snapshot of Cloud Hypervisor",
            cause="it has no memory with state.json and a configuration, and is none in a store",
            cure="name the folder that `ch-remote snapshot` wrote, or STORE/NAME",
        )
    url, name = place
    image = open_either(url, second, name)
    memory, config, state, slots = cloud_hypervisor.parts(image.about, image.length)
    tail = _tail(handover.resolve(url, name, second=second, cache=cache, offset=memory))
    machine = of_messages(tail[:config], tail[config : config + state], slots=slots)
    if machine.length != memory:
        raise UsageError(
            f"{what} cannot be restored",
            cause=f"its configuration has {machine.length} bytes of memory, its image {memory}",
            cure="pack it anew",
        )
    resolved = handover.resolve(url, name, length=memory, second=second, cache=cache)
    return Snapshot(machine, resolved.spec, resolved.fd)


def _of_folder(folder: str) -> Snapshot:
    machine = cloud_hypervisor.machine_in(folder)
    files = cloud_hypervisor.memory_files(folder, machine)
    if len(files) > 1:
        raise UsageError(
            f"{folder} cannot be served as it is",
            cause=f"its memory is in {len(files)} files",
            cure=f"pack it, and name the snapshot: userfault pack {folder} STORE/NAME",
        )
    resolved = resolve(files[0])
    if resolved.spec.length != machine.length:
        resolved.close()
        raise UsageError(
            f"{files[0]} does not belong to its state",
            cause=f"it has {resolved.spec.length} bytes, {machine.length} are recorded",
            cure="make the snapshot anew",
        )
    return Snapshot(machine, resolved.spec, resolved.fd)


def _tail(resolved: Resolved) -> bytes:
    """What lies behind the memory in the image."""
    assert isinstance(resolved.spec, StoreSpec), "it is a snapshot in a store"
    try:
        source, _ = take_up(resolved.spec, resolved.fd, BASE_PAGE)
    finally:
        resolved.close()
    try:
        return bytes(source.read(0, resolved.spec.length))
    finally:
        source.close()


def restore(
    line: Line,
    path: str,
    what: str,
    *,
    resume: bool = True,
    connections: int = 1,
    wait_s: float = _LISTENS_S,
) -> int:
    """Restore `what` into the VMM that listens at `path`, with pages from the daemon at `line`.

    `resume`: it runs then; else it is left paused.  `connections`: for page faults.  The process
    id of the VMM.  Raises PagerError where one of the two refuses, and what `open_snapshot` raises.
    """
    snapshot = open_snapshot(what)
    with contextlib.ExitStack() as held:
        held.callback(close_all, [snapshot.fd])
        machine = snapshot.machine
        if len(machine.slots) > _MOST_SLOTS:
            raise UsageError(
                f"a VM with {len(machine.slots)} memory slots",
                cause=f"{_MOST_SLOTS} are supported",
                cure="restore it with memory_restore_mode=ondemand from its files",
            )
        vmm = held.enter_context(_Vmm(path, wait_s))
        vmm.asks(wire.Command.START)
        memories = _memories(machine) if machine.shared else []
        held.callback(close_all, memories)
        for slot, memory in zip(machine.slots, memories, strict=False):
            vmm.asks(wire.Command.MEMORY_FD, wire.slot(slot.slot), memory)
        vmm.asks(wire.Command.CONFIG, machine.config)
        faults = [held.enter_context(_connected(path, wait_s)) for _ in range(connections)]
        for each in faults:
            each.sendall(wire.FAULT_ROLE)
        _hand_over(line, snapshot, memories, [each.fileno() for each in faults])
        vmm.asks(wire.Command.STATE, machine.state)
        vmm.asks(wire.Command.COMPLETE if resume else wire.Command.COMPLETE_PAUSED)
        return vmm.pid


def _hand_over(line: Line, snapshot: Snapshot, memories: list[int], faults: list[int]) -> None:
    machine = snapshot.machine
    line.ask(
        "restore",
        [snapshot.fd, *memories, *faults],
        token=secrets.token_hex(16),
        spec=snapshot.spec,
        page_size=machine.page_size,
        parts=[(each.gpa, each.length) for each in machine.ranges],
        slots=[(each.gpa, each.size, each.file_offset) for each in machine.slots]
        if memories
        else [],
        connections=len(faults),
    )


def _memories(machine: Machine) -> list[int]:
    """An empty memfd for each slot, of the pages that the VM has."""
    flags = os.MFD_CLOEXEC
    if machine.page_size > BASE_PAGE:
        flags |= os.MFD_HUGETLB | (machine.page_size.bit_length() - 1) << MFD_HUGE_SHIFT
    made: list[int] = []
    try:
        for slot in machine.slots:
            made.append(os.memfd_create(f"userfault-slot-{slot.slot}", flags))
            os.ftruncate(made[-1], slot.file_offset + slot.size)
    except OSError as error:
        close_all(made)
        raise PagerError(
            "no memory for the VM",
            cause=os.strerror(error.errno or 0),
            cure="free memory, or raise `ulimit -n`; huge pages must be in the pool",
        ) from None
    return made


def _connected(path: str, wait_s: float) -> socket.socket:
    """To the VMM, as soon as it listens.  Raises PagerError."""
    deadline = time.monotonic() + wait_s
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            channel.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            cause = os.strerror(error.errno or 0)
        except OSError as error:
            cause = os.strerror(error.errno or 0)
        else:
            return channel
        channel.close()
        raise PagerError(
            f"nobody listens at {path}",
            cause=cause,
            cure="ch-remote receive-migration receiver_url=unix:PATH,memory_mode=postcopy",
        )


class _Vmm(contextlib.AbstractContextManager["_Vmm"]):
    """The connection on which it is told what it is to be."""

    def __init__(self, path: str, wait_s: float) -> None:
        self._channel = _connected(path, wait_s)
        self._channel.settimeout(_ANSWERS_S)
        self._peer = self._channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)

    @property
    def pid(self) -> int:
        """Its process."""
        return int.from_bytes(self._peer[:4], "little", signed=True)

    def asks(self, command: wire.Command, payload: bytes = b"", fd: int = -1) -> None:
        """Send a request, and take its response.  Raises PagerError where that is no ok."""
        try:
            self._channel.sendall(wire.request(command, len(payload)))
            if fd >= 0:
                socket.send_fds(self._channel, [payload], [fd])
            elif payload:
                self._channel.sendall(payload)
            status, _ = wire.read_response(self._exactly(wire.HEADER))
        except (OSError, EOFError) as error:
            raise _refused(command, str(error) or "it closed the connection") from None
        except UserfaultError as error:
            raise _refused(command, str(error)) from None
        if status is not wire.Status.OK:
            raise _refused(command, "it answers with an error")

    def _exactly(self, size: int) -> bytes:
        came = b""
        while len(came) < size:
            more = self._channel.recv(size - len(came))
            if not more:
                raise EOFError
            came += more
        return came

    def __exit__(self, *exc: object) -> None:
        self._channel.close()


def _refused(command: wire.Command, cause: str) -> PagerError:
    return PagerError(
        f"the VMM does not take {command.name} of its restore",
        cause=cause,
        cure="look at its log; the release that restores must know what the snapshot has",
    )
