"""Processes that share one descriptor table."""

from __future__ import annotations

import os
import threading

from helpers import child
from userfault.linux.clone import fork_sharing_descriptors

HERE = "linux.test_clone:"


def what_a_killed_child_opened() -> str:
    """The child opens a file, tells its number and is killed; the parent reads the file."""
    read, write = os.pipe()
    pid = fork_sharing_descriptors()
    if pid == 0:
        made = os.memfd_create("made by the child")
        os.write(made, b"still here")
        os.write(write, bytes([made]))
        os.kill(os.getpid(), 9)
    fd = os.read(read, 1)[0]
    os.waitpid(pid, 0)
    return os.pread(fd, 100, 0).decode()


def threads_of_the_child() -> list[int]:
    """The child starts a thread, which knows its own process."""
    read, write = os.pipe()
    pid = fork_sharing_descriptors()
    if pid == 0:
        thread = threading.Thread(target=lambda: os.write(write, str(os.getpid()).encode()))
        thread.start()
        thread.join()
        os._exit(0)
    seen = int(os.read(read, 100))
    os.waitpid(pid, 0)
    return [pid, seen]


def descriptors_the_child_closed() -> str:
    fd = os.dup(0)
    pid = fork_sharing_descriptors()
    if pid == 0:
        os.close(fd)
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        os.fstat(fd)
    except OSError as error:
        return error.strerror or ""
    return "open"


def test_what_a_killed_child_had_open_stays_open() -> None:
    assert child.run(HERE + "what_a_killed_child_opened") == "still here"


def test_what_the_child_closes_is_closed_for_both() -> None:
    assert child.run(HERE + "descriptors_the_child_closed") == "Bad file descriptor"


def test_the_child_is_a_whole_interpreter_with_threads() -> None:
    pid, seen = child.run(HERE + "threads_of_the_child")
    assert pid == seen
