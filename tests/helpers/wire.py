"""A wire that takes its time and loses packets: two TUN devices, and a thread between them."""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time

from helpers.skips import absent

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_PACKET = 1 << 16
_WAITING_S = 0.1  # what would wait for longer is lost, as in a router


class SlowWire:
    """`names`: of its two ends, which may go to other network namespaces.  `whole`: whether
    anything arrives: without it nobody is told that nothing does.  `carried`: bytes so far."""

    def __init__(self, delay_s: float, loss: float, rate: float) -> None:
        self.names = [f"uf{os.getpid()}{letter}" for letter in "ab"]
        self.whole = True
        self.carried = 0
        self._delay_s, self._loss, self._rate = delay_s, loss, rate
        self._draw = random.Random(1)
        self._ends: list[int] = []
        try:
            for name in self.names:
                self._ends.append(os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
                wanted = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
                fcntl.ioctl(self._ends[-1], _TUNSETIFF, wanted)
        except OSError as error:
            self._close()
            absent(f"no network device can be made: {error}")
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._forward)
        self._thread.start()

    def __enter__(self) -> SlowWire:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._woken)
        self._thread.join()
        os.close(self._wake)
        self._close()

    def _close(self) -> None:
        for end in self._ends:
            os.close(end)

    def _forward(self) -> None:
        poll = select.poll()
        for fd in (self._wake, *self._ends):
            poll.register(fd, select.POLLIN)
        under_way: list[tuple[float, int, int, bytes]] = []
        free = dict.fromkeys(self._ends, 0.0)  # when the wire has taken all before
        number = 0
        while True:
            left = under_way[0][0] - time.monotonic() if under_way else 1.0
            for fd, _ in poll.poll(max(left, 0.0) * 1000):
                if fd == self._wake:
                    return
                target = self._ends[1 - self._ends.index(fd)]
                with contextlib.suppress(OSError):  # an end that is down
                    packet = os.read(fd, _PACKET)
                    now = time.monotonic()
                    waits = max(free[fd] - now, 0.0)
                    if not self.whole or waits > _WAITING_S or self._draw.random() < self._loss:
                        continue
                    free[fd] = now + waits + len(packet) / self._rate
                    number += 1
                    self.carried += len(packet)
                    heapq.heappush(under_way, (free[fd] + self._delay_s, number, target, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                *_, target, packet = heapq.heappop(under_way)
                with contextlib.suppress(OSError):
                    os.write(target, packet)
