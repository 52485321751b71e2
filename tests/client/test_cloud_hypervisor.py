"""`userfault client --cloud-hypervisor`: restored by our daemon every byte is right; by a restorer
that goes wrong, that is found out."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.commands import command, environment, userfault
from helpers.waiting import wait_until
from serve.daemons import Running, serving
from serve.vmm_snapshots import SLOTS, memory_data, snapshot, vm_config
from userfault.client.cloud_hypervisor import FORMS
from userfault.linux.pidfd import close_all

PAGE = 4096
_LISTENS_S = 30
_REQUEST = struct.Struct("<H6xQ")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 MiB, as the slots have it; each page holds its number."""
    path = tmp_path_factory.mktemp("guest") / "memory"
    path.write_bytes(b"".join((page + 1).to_bytes(8, "little") * 512 for page in range(512)))
    return path


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("daemon")) as running:
        yield running


class Posed:
    """The client, as a process that listens."""

    def __init__(self, at: Path, image: Path, *arguments: str) -> None:
        where = f"--cloud-hypervisor={at}", f"--image={image}", "--json"
        self.process = subprocess.Popen(
            command("client", *where, *arguments),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: at.is_socket() or self.process.poll() is not None, _LISTENS_S)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()

    def ended(self) -> tuple[int, dict[str, Any]]:
        out, err = self.process.communicate(timeout=120)
        assert out, err
        return self.process.returncode, json.loads(out)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_byte_is_the_snapshots(
    daemon: Running, guest: Path, tmp_path: Path, form: str, shared: bool
) -> None:
    folder = snapshot(tmp_path / "snapshot", guest, shared=shared)
    changes = ("--balloon=20",) if shared else ()  # of private memory nobody is told
    arguments = f"--form={form}", "--threads=2", "--write=20", *changes
    attach = ["attach", f"--control={daemon.folder}/control"]
    with contextlib.closing(Posed(tmp_path / "vm", guest, *arguments)) as posed:
        ran = userfault(*attach, f"--cloud-hypervisor={tmp_path}/vm", str(folder))
        code, found = posed.ended()
    assert ran.returncode == 0, ran.stderr
    assert (code, found["verdict"]) == (0, "right"), found
    assert found["result"]["pages"] == 512


# --- a restorer in a few lines, with one flaw ----------------------------------------------------


def _asked(channel: socket.socket, number: int, payload: bytes = b"", fd: int = -1) -> None:
    """A request that is answered with ok."""
    channel.sendall(_REQUEST.pack(number, len(payload)))
    if fd >= 0:
        socket.send_fds(channel, [payload], [fd])
    elif payload:
        channel.sendall(payload)
    assert _REQUEST.unpack(channel.recv(16, socket.MSG_WAITALL)) == (1, 0)


def restore(at: Path, image: Path, flaw: str) -> None:
    """Send a VM of shared memory, and deliver its pages until it hangs up."""
    content = image.read_bytes()
    memfds = [os.memfd_create("slot") for _ in SLOTS]
    memories = []
    for memfd, (_, size, offset) in zip(memfds, SLOTS, strict=True):
        os.ftruncate(memfd, offset + size)
        memories.append(mmap.mmap(memfd, 0))
    with socket.socket(socket.AF_UNIX) as main, socket.socket(socket.AF_UNIX) as faults:
        main.connect(str(at))
        _asked(main, 1)
        for number, memfd in enumerate(memfds):
            _asked(main, 7, number.to_bytes(4, "little"), memfd)
        config = {"vm_config": vm_config(), "memory_manager_data": memory_data()}
        _asked(main, 2, json.dumps(config).encode())
        if flaw != "no second connection":
            faults.connect(str(at))
            faults.sendall((2).to_bytes(2, "little"))
            deliverer = threading.Thread(target=_deliver, args=(faults, memories, content, flaw))
            deliverer.start()
        try:
            _asked(main, 3, b"{}")
            _asked(main, 5)
        except (struct.error, AssertionError, OSError):
            pass  # it has found us out
        if flaw != "no second connection":
            deliverer.join()
    close_all(memfds)


def _deliver(faults: socket.socket, memories: list[mmap.mmap], content: bytes, flaw: str) -> None:
    seen: set[int] = set()
    try:
        while len(request := faults.recv(32, socket.MSG_WAITALL)) == 32:
            gpa = int.from_bytes(request[16:24], "little")
            number = 0 if gpa < 1 << 30 else 1
            base, _, offset = SLOTS[number]
            page = (gpa - base) // PAGE + number * 256
            if page == 300 and flaw == "an error":
                faults.sendall(_REQUEST.pack(2, 0))
                return
            if page == 300 and flaw == "bytes in the answer":
                faults.sendall(_REQUEST.pack(1, PAGE) + content[:PAGE])
                return
            if page == 300 and flaw == "silence":
                continue
            if page not in seen or flaw == "written twice":
                wrong = page == 300 and flaw == "another page"
                source = content[(page + wrong) * PAGE :][:PAGE]
                at = gpa - base + offset
                memories[number][at : at + PAGE] = source
            seen.add(page)
            faults.sendall(_REQUEST.pack(1, 0))
    except OSError:
        pass


FLAWS = {
    "": (0, "right", ""),
    "another page": (1, "wrong", "page 301 of the image"),
    "an error": (6, "refused", "status 2 (page at gpa 0x10002c000)"),
    "bytes in the answer": (6, "refused", "4096 bytes where 0 are due"),
    "silence": (7, "hung", " at 0x"),
    "written twice": (1, "wrong", "what was written there is gone"),
    "no second connection": (6, "refused", "no connection for page faults came"),
}


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw or "none")
def test_a_flaw_is_found(guest: Path, tmp_path: Path, flaw: str) -> None:
    """(All pages are asked for twice: by a touch, and by the walk in the background.)"""
    code, verdict, said = FLAWS[flaw]
    arguments = ["--write=100"] if flaw == "written twice" else []
    arguments += ["--timeout=5"] if flaw in ("silence", "no second connection") else []
    with contextlib.closing(Posed(tmp_path / "vm", guest, *arguments)) as posed:
        restore(tmp_path / "vm", guest, flaw)
        found = posed.ended()
    assert (found[0], found[1]["verdict"]) == (code, verdict), found
    wrong = (found[1]["result"] or {"wrong": []})["wrong"]
    told = [found[1]["why"], *(each["what"] for each in wrong)]
    assert any(said in each for each in told), told


def test_no_restorer_is_a_refusal(guest: Path, tmp_path: Path) -> None:
    with contextlib.closing(Posed(tmp_path / "vm", guest, "--timeout=1")) as posed:
        code, found = posed.ended()
    assert (code, found["verdict"]) == (6, "refused")
    assert not (tmp_path / "vm").exists()
