"""A snapshot that a Cloud Hypervisor sends is packed before it is answered, or refused."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest

from cli.children import run
from helpers.waiting import wait_until
from serve.vmm_snapshots import CPUID, SLOTS, memory_data, state, vm_config
from userfault.api.cloud_hypervisor import open_snapshot
from userfault.api.cloud_hypervisor_sent import Sent
from userfault.kernel.errors import UserfaultError

START, CONFIG, STATE, MEMORY, COMPLETE, ABANDON, MEMORY_FD, PAUSED = range(1, 9)
CONFIGURATION = json.dumps(
    {
        "vm_config": vm_config(shared=True),
        "common_cpuid": CPUID,
        "memory_manager_data": memory_data(),
    }
).encode()
STATES = json.dumps(state()).encode()


class Sender(contextlib.AbstractContextManager["Sender"]):
    """What `send-migration` with local=on does."""

    def __init__(self, path: Path) -> None:
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.channel.settimeout(60)
        # The path is there a moment before anybody listens at it.
        wait_until(lambda: self.channel.connect_ex(str(path)) == 0)

    def says(self, command: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> int:
        """The status of its answer; 0: the connection was closed."""
        with contextlib.suppress(ConnectionError):  # it is refused before its payload is there
            self.channel.sendall(struct.pack("<H6xQ", command, len(payload)))
            if fds:
                socket.send_fds(self.channel, [payload], list(fds))
            elif payload:
                self.channel.sendall(payload)
        with contextlib.suppress(ConnectionError):
            if answer := self.channel.recv(16):
                return int(struct.unpack("<H", answer[:2])[0])
        return 0

    def __exit__(self, *rest: object) -> None:
        self.channel.close()

    def begins(self, image: bytes) -> None:
        """Up to what ends it."""
        assert self.says(START) == 1
        for number, (_, size, offset) in enumerate(SLOTS):
            fd = os.memfd_create("slot")
            os.ftruncate(fd, offset + size)
            os.pwrite(fd, image[:size], offset)
            image = image[size:]
            assert self.says(MEMORY_FD, struct.pack("<I", number), (fd,)) == 1
            os.close(fd)
        assert self.says(CONFIG, CONFIGURATION) == 1
        assert self.says(STATE, STATES) == 1


@contextlib.contextmanager
def packing(path: Path, store: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "userfault", "pack", "--cloud-hypervisor", str(path)]
    process = subprocess.Popen(
        [*command, f"{store}/one"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", [COMPLETE, PAUSED])
def test_what_is_sent_is_in_the_store_when_it_is_answered(
    tmp_path: Path, image: Path, end: int
) -> None:
    with (
        packing(tmp_path / "s", tmp_path / "store") as process,
        Sender(tmp_path / "s") as sender,
    ):
        sender.begins(image.read_bytes())
        assert sender.says(end) == 1
        shown = json.loads(run("info", f"{tmp_path}/store/one", "--json")["out"])
        assert process.wait(timeout=60) == 0
    assert shown["about"]["memory_bytes"] == str(image.stat().st_size)
    found = open_snapshot(f"{tmp_path}/store/one")
    assert (found.machine.config, found.machine.state) == (CONFIGURATION, STATES)
    os.close(found.fd)
    run("export", f"{tmp_path}/store/one", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes().startswith(image.read_bytes())


WRONG: dict[str, tuple[list[tuple[int, bytes, int]], str]] = {
    "no start": ([(CONFIG, b"{}", 0)], "CONFIG is not what comes first"),
    "started twice": ([(START, b"", 0), (START, b"", 0)], "START is not what comes first"),
    "nothing but an end": ([(START, b"", 0), (PAUSED, b"", 0)], "without CONFIG"),
    "no descriptor": ([(START, b"", 0), (MEMORY_FD, bytes(4), 0)], "MEMORY_FD with 0"),
    "two descriptors": ([(START, b"", 0), (MEMORY_FD, bytes(4), 2)], "MEMORY_FD with 2"),
    "a slot twice": ([(START, b"", 0), *[(MEMORY_FD, bytes(4), 1)] * 2], "slot 0 twice"),
    "memory in pieces": ([(START, b"", 0), (MEMORY, bytes(16), 0)], "not taken"),
    "given up": ([(START, b"", 0), (ABANDON, b"", 0)], "was given up"),
    "unknown": ([(START, b"", 0), (99, b"", 0)], "command 99"),
    "slots without memory": (
        [(START, b"", 0), (CONFIG, CONFIGURATION, 0), (STATE, STATES, 0), (PAUSED, b"", 0)],
        "slot 0 has no memfd",
    ),
    "no configuration": (
        [(START, b"", 0), (CONFIG, b"{}", 0), (STATE, STATES, 0), (PAUSED, b"", 0)],
        "the configuration",
    ),
}


@contextlib.contextmanager
def refused(path: Path, said: str) -> Iterator[Sender]:
    """Within it a sender says what is to be refused for that reason."""
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Sent, str(path))
        with Sender(path) as sender:
            yield sender
        with pytest.raises(UserfaultError, match=said):
            waiting.result(timeout=60)
    assert not path.exists()


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_snapshot_is_refused(tmp_path: Path, case: str) -> None:
    words, said = WRONG[case]
    memory = os.memfd_create("slot")
    with refused(tmp_path / "s", said) as sender:
        last = 1
        for command, payload, fds in words:
            assert last == 1
            last = sender.says(command, payload, (memory,) * fds)
        assert last != 1 or case == "given up"
    os.close(memory)


def test_a_length_without_bounds_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    with refused(tmp_path / "s", "are allowed") as sender:
        assert sender.says(START) == 1
        sender.channel.sendall(struct.pack("<H6xQ", STATE, 1 << 60))
        assert sender.channel.recv(16)[0] == 2
