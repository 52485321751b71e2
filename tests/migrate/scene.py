"""A program that writes all the time, and is moved; and where it arrives."""

from __future__ import annotations

import mmap
import random
import struct
import threading

from helpers.pages import PAGE
from userfault.api.memory import LazyMemory
from userfault.kernel.errors import UserfaultError
from userfault.migrate.frames import Offer
from userfault.migrate.receiving import Received, Receiver
from userfault.migrate.sending import Memories, Sent, send


class Writer:
    """Two memories of `pages` pages in all, into which a thread writes until it is stopped."""

    def __init__(self, pages: int, *, writes: bool = True) -> None:
        self.memories = [self._filled(pages // 4, 0), self._filled(pages - pages // 4, pages // 4)]
        self.runs = writes
        self.stops = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        if writes:
            self._thread.start()

    def moving(self) -> Memories:
        return Memories(self.memories, self.stop, self.go_on)

    def stop(self) -> bytes:
        self.stops += 1
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.runs = False
        return b"the state"

    def go_on(self) -> None:
        self.runs = True

    def content(self) -> list[bytes]:
        return [bytes(memory) for memory in self.memories]

    def close(self) -> None:
        self.stop()
        for memory in self.memories:
            memory.close()

    def _write(self) -> None:
        draw, number = random.Random(1), 0
        while not self._stop.is_set():
            memory = draw.choice(self.memories)
            at = draw.randrange(len(memory) // 16) * 16
            number += 1
            struct.pack_into("<2Q", memory, at, number, at)
            self._stop.wait(0.0002)

    @staticmethod
    def _filled(pages: int, first: int) -> mmap.mmap:
        memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(pages):
            if page % 5:  # the others are zeros
                struct.pack_into("<Q", memory, page * PAGE, first + page + 1)
        return memory


class Counting:
    """A guest that notes what it is told; it may refuse its state, or to run."""

    def __init__(
        self, refuses: UserfaultError | None = None, runs: UserfaultError | None = None
    ) -> None:
        self.states: list[bytes] = []
        self.resumed = self.closed = 0
        self._refuses, self._runs = refuses, runs

    def set_state(self, data: bytes) -> None:
        if self._refuses is not None:
            raise self._refuses
        self.states.append(data)

    def resume(self) -> None:
        if self._runs is not None:
            raise self._runs
        self.resumed += 1

    def close(self) -> None:
        self.closed += 1


class Awaited:
    """A receiver in a thread: `received`, or `error`, when `join()` returns or raises."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.received: Received | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def join(self) -> Received:
        self._thread.join()
        if self.error is not None:
            raise self.error
        assert self.received is not None
        return self.received

    def _receive(self) -> None:
        try:
            self.received = self.receiver.receive(60)
        except Exception as error:
            self.error = error


class Arrival(Awaited):
    """One whose guest is `Counting`."""

    def __init__(self, guest: Counting | None = None, **options: object) -> None:
        self.guest = guest or Counting()
        options = {"tls": None, "patience_s": 30.0, **options}
        super().__init__(Receiver("127.0.0.1:0", take=self._take, **options))  # type: ignore[arg-type]
        self.address = self.receiver.address

    def failed(self) -> Exception:
        self._thread.join()
        assert self.error is not None
        return self.error

    def close(self) -> None:
        self.receiver.close()
        self._thread.join()
        if self.received is not None:
            self.received.close()

    def __enter__(self) -> Arrival:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take(self, offer: Offer, memories: list[LazyMemory]) -> Counting:
        assert offer.lengths == tuple(map(len, memories))
        return self.guest


def moved(writer: Writer, arrival: Arrival, address: str, **options: object) -> Sent:
    """Move it, and look whether all of it is there: each byte as it was when it stopped."""
    sent = send(writer.moving(), address, tls=None, **options)  # type: ignore[arg-type]
    received = arrival.join()
    assert received.wait(60)
    assert [bytes(memory) for memory in received.memories] == writer.content()
    assert arrival.guest.states[-1] == b"the state"
    assert (arrival.guest.resumed, writer.runs) == (1, False)
    return sent
