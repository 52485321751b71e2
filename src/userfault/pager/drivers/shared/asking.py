"""Finding a user's keeper, starting one where there is none, and asking it for a copy."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import time

import msgspec

from userfault.kernel.errors import Unavailable
from userfault.linux import pidfd
from userfault.linux.pidfd import close_all
from userfault.linux.unpatched import original, packet_sockets
from userfault.pager.drivers.processes.lean import lean_path
from userfault.pager.drivers.processes.spawn import spawn_python
from userfault.pager.drivers.shared import place, words

_ANSWER_S = 2.0  # for a keeper that runs: it answers within a millisecond
_START_S = 10.0  # for a new one to come up: it takes some 60 ms
_PAUSE_S = 0.005
_DESCRIPTORS = 3


class Grant(msgspec.Struct):
    """A copy, for one mapping.  Its descriptors are the caller's.

    `copy`: the memfd, open for reading, to be mapped privately.  `filler`, `address`, `marks`: what
    `SharedCopy` takes, for a pager and for nobody else.  `claim`: a connection that says that the
    copy is used, as long as anybody has it open.
    """

    copy: int
    filler: int
    marks: int
    claim: int
    address: int

    def close(self) -> None:
        """Close them."""
        close_all([self.copy, self.filler, self.marks, self.claim])


def key_of(table: int, length: int) -> bytes:
    """What a copy is known by: a digest of all that its bytes depend on.

    `table`: of `length` bytes of a snapshot (`snapshot.serving.table`), which names each chunk by
    the digest that its bytes are checked against.  So who knows the key has read the manifest, and
    no two images have the same.  (The manifest's own digest would not do: `userfault info` prints
    it.)
    """
    from blake3 import blake3  # noqa: PLC0415  # only who restores from a store has it loaded

    hashed = blake3(length.to_bytes(8, "little"), derive_key_context="userfault shared copy 1")
    with mmap.mmap(table, 0, prot=mmap.PROT_READ) as held:
        return bytes(hashed.update(held).digest())


def keeps() -> bool:
    """Whether a keeper may be there: a look at its folder, which is not made for it."""
    with contextlib.suppress(Unavailable, OSError), place.folder(make=False) as folder:
        if folder >= 0:
            os.stat(place.SOCKET, dir_fd=folder)
            return True
    return False


def ask(key: bytes, pages: int, keep_s: float = 0.0, *, start: bool = True) -> Grant | None:
    """The copy known by `key`, of `pages` pages of 4 KiB, empty where nobody had it yet.

    `keep_s`: seconds for which it is to be kept when nobody uses it any more.  `start`: have a
    keeper started where none runs; else the answer is None.  Waits for some ms, at most
    for seconds.  Raises Unavailable.
    """
    wanted = words.Ask(key, pages, keep_s).encode()
    deadline = time.monotonic() + _START_S
    pause = original("time", "sleep")
    with place.folder(make=start) as folder:
        while folder >= 0:
            channel = connected(folder)
            if channel is not None:
                grant = _asked(channel, wanted)
                if grant is not None:
                    return grant
            if not start:
                return None
            if time.monotonic() > deadline:
                raise _no_keeper(f"none has come up within {_START_S:.0f} s")
            if channel is None:
                _start()
            pause(_PAUSE_S)
    return None


def connected(folder: int) -> socket.socket | None:
    """A connection to the keeper, whoever that is by now; None where none runs."""
    kind = original("socket", "socket")
    channel: socket.socket = kind(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.settimeout(_ANSWER_S)
        channel.connect(place.path_in(folder, place.SOCKET))
    except (FileNotFoundError, ConnectionRefusedError):
        channel.close()
        return None
    except OSError as error:
        channel.close()
        raise _no_keeper(os.strerror(error.errno or 0)) from None
    return channel


def _asked(channel: socket.socket, wanted: bytes) -> Grant | None:
    """What the keeper gives; None where it has just ended."""
    with contextlib.closing(channel):
        fds: list[int] = []
        try:
            channel.send(wanted)
            data, fds, lost, _ = pidfd.receive(channel, words.MOST, _DESCRIPTORS)
        except ConnectionError:
            return None
        except TimeoutError:
            why = f"it has not answered within {_ANSWER_S:.0f} s: it may be stopped"
            raise _no_keeper(why) from None
        except OSError as error:
            raise _no_keeper(os.strerror(error.errno or 0)) from None
        if not data:
            return None
        answer = words.address_in(data)
        if isinstance(answer, int) and len(fds) == _DESCRIPTORS and not lost:
            channel.setblocking(True)
            copy, filler, marks = fds
            return Grant(copy, filler, marks, channel.detach(), answer)
        close_all(fds)
        why = "descriptors were lost: there are too many" if lost else str(answer)
        raise Unavailable(
            "the keeper of shared copies gives none",
            cause=why,
            cure="restore without sharing (Policy(share='off')), or with the rights of whoever"
            " started the keeper",
        )


def _start() -> None:
    """Have a keeper started, and wait until it listens, or another does.  Raises Unavailable."""
    ours, theirs = packet_sockets()
    with contextlib.closing(ours):
        with contextlib.closing(theirs):
            pid = spawn_python(
                "userfault.pager.drivers.shared.keeper", "work", theirs.fileno(), lean_path()
            )
        with contextlib.closing(_Child(pid)) as child:
            if not child.ended(_START_S):
                why = f"the process that was started did not come up within {_START_S:.0f} s"
                raise _no_keeper(why)
        ours.setblocking(False)
        said = b""
        with contextlib.suppress(OSError):
            said = ours.recv(words.MOST)
        if said:
            raise _no_keeper(said.decode(errors="replace"))


class _Child:
    """A process that we started, to be reaped."""

    def __init__(self, pid: int) -> None:
        self._process = os.pidfd_open(pid)

    def ended(self, seconds: float) -> bool:
        """Whether it ends in time; else it is killed."""
        ended = pidfd.wait(self._process, seconds)
        if not ended:
            pidfd.kill(self._process, signal.SIGKILL)
        return ended

    def close(self) -> None:
        with contextlib.suppress(ChildProcessError):  # where the program reaps every child
            os.waitid(os.P_PIDFD, self._process, os.WEXITED)
        os.close(self._process)


def _no_keeper(cause: str) -> Unavailable:
    return Unavailable(
        "no keeper of shared copies",
        cause=cause,
        cure=f"see who may use the folder of {place.VARIABLE}; or restore without sharing"
        " (Policy(share='off'))",
    )
