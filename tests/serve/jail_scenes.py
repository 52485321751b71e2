"""A client as Firecracker's jailer starts one: another root, another user, no rights."""

from __future__ import annotations

import codecs
import ctypes
import json
import os
import socket

from helpers.child import NOBODY, become_nobody
from serve.hostile_scenes import PAGE, Memory


def jailed(root: str, path: str) -> int:
    """Opens its userfaultfd, is put into the jail, restores: what it reads there."""
    memory = Memory()
    text = json.dumps(memory.regions()).encode()
    page = ctypes.create_string_buffer(8)
    codecs.lookup("ascii")  # there is no Python in the jail
    os.chroot(root)
    os.chdir("/")
    become_nobody()
    assert os.getuid() == os.getgid() == NOBODY
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(path)
        socket.send_fds(channel, [text], [memory.uffd.fileno()])
        ctypes.memmove(page, memory.address + 5 * PAGE, 8)
    return int.from_bytes(page.raw[:8], "little")
