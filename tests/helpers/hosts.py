"""Two hosts, as network namespaces with a wire between them (ip-netns(8), veth(4))."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from helpers.skips import absent, need_root
from helpers.wire import SlowWire


class Host(NamedTuple):
    """`address`: its own; `inside`: what a command begins with that runs there."""

    name: str
    address: str

    @property
    def inside(self) -> list[str]:
        """The network alone is another one: files and mounts stay what they are."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """They go with the block, and whatever is left of the wire."""
    with _unconnected() as hosts:
        ends = "netns", hosts[0].name, "type", "veth", "peer", "wire", "netns", hosts[1].name
        _ip("link", "add", "wire", *ends)
        _connect(hosts)
        yield hosts


@contextlib.contextmanager
def slow_hosts(
    *, delay_s: float = 0.0, loss: float = 0.0, rate: float = 1e9
) -> Iterator[tuple[Host, Host, SlowWire]]:
    """The same, with a wire that takes `delay_s`, loses so much of what it is given, and takes
    `rate` bytes a second each way: what tc-netem(8) does, for kernels without it."""
    with _unconnected() as hosts, SlowWire(delay_s, loss, rate) as wire:
        for host, name in zip(hosts, wire.names, strict=True):
            _ip("link", "set", name, "netns", host.name)
            _ip("-n", host.name, "link", "set", name, "name", "wire")
        _connect(hosts)
        yield *hosts, wire


@contextlib.contextmanager
def _unconnected() -> Iterator[tuple[Host, Host]]:
    need_root()
    names = [f"userfault-{os.getpid()}-{letter}" for letter in "ab"]
    hosts = Host(names[0], "10.209.0.1"), Host(names[1], "10.209.0.2")
    with contextlib.ExitStack() as undo:
        for host in hosts:
            made = subprocess.run(
                ["ip", "netns", "add", host.name], capture_output=True, text=True, check=False
            )
            if made.returncode:
                absent(f"no network namespace can be made: {made.stderr.strip()}")
            undo.callback(_ip, "netns", "delete", host.name)
        yield hosts


def _connect(hosts: tuple[Host, Host]) -> None:
    for host in hosts:
        _ip("-n", host.name, "address", "add", f"{host.address}/30", "dev", "wire")
        _ip("-n", host.name, "link", "set", "wire", "up")
        _ip("-n", host.name, "link", "set", "lo", "up")


def cut(host: Host) -> None:
    """Nothing goes over the wire any more."""
    _ip("-n", host.name, "link", "set", "wire", "down")


def mend(host: Host) -> None:
    """It does again."""
    _ip("-n", host.name, "link", "set", "wire", "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
