"""What runs in a process of its own."""

from __future__ import annotations

import ctypes
import errno
import itertools
import mmap
import os

import numpy

from helpers.child import become_nobody, forbid_system_call
from tracking.memories import MIB, PAGE
from userfault.api.checkpoint import Checkpoint
from userfault.api.snapshot import Snapshot
from userfault.api.track import track
from userfault.kernel.errors import OpenRefused, Unavailable

_PR_SET_DUMPABLE = 4
_PTRACE = {"x86_64": 101, "aarch64": 117}[os.uname().machine]


def as_nobody() -> tuple[str, list[int], str]:
    """How a user without any rights tracks, and what is told of a write and of a read(2)."""
    memory = mmap.mmap(-1, MIB)
    zeros = open("/dev/zero", "rb", buffering=0)  # noqa: SIM115  # closed below, as nobody
    become_nobody()
    # As a program that this user has started is (prctl(2); setuid(2) has cleared it).
    assert not ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    refused = ""
    try:
        track(memory, mode="messages")
    except OpenRefused as error:
        refused = type(error).__name__
    with track(memory) as tracker, zeros:
        memory[PAGE] = 1
        zeros.readinto(memoryview(memory)[3 * PAGE : 5 * PAGE])
        return tracker.mode, list(tracker.written()), refused


def without_ptrace(store: str) -> tuple[str, str]:
    """In a container whose profile forbids ptrace(2): what is told, and the snapshot without."""
    memory = mmap.mmap(-1, MIB)
    forbid_system_call(_PTRACE, errno.EPERM)
    told = ""
    with Snapshot(f"{store}/one", memory) as snapshot:
        snapshot.update(consistent=False)
        memory[5 * PAGE] = 1
        try:
            snapshot.update()
        except Unavailable as error:
            told = str(error)
        return told, snapshot.update(consistent=False).name


def save_for_ever(store: str) -> None:
    """An array of which every item is the number of the checkpoint."""
    array = numpy.zeros(100_000)
    with Checkpoint(store, "m") as checkpoint:
        for step in itertools.count(1):
            array[:] = step
            checkpoint.save(array=array, step=step)
