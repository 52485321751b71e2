"""Nobody changes what others see of a shared copy, or has one who could not read the store."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import child
from helpers.keepers import copies, keeper
from helpers.pages import PAGE
from helpers.skips import need_root
from helpers.waiting import wait_until
from userfault import Policy, lazy
from userfault.kernel.errors import Unavailable
from userfault.linux import libc
from userfault.linux.uffd import LiveUserfaultfd
from userfault.pager.drivers.shared import asking, place
from userfault.uapi import mman

SCENES = "pager_live.sharing.trust_scenes:"
SHARED = Policy(share="on")
DEMAND = Policy(share="on", background=False)
_PUNCH = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE


def _remap_shared(fd: int) -> None:
    libc.mmap(0, PAGE, mman.PROT_READ | mman.PROT_WRITE, mman.MAP_SHARED, fd, 0)


def _make_writable(fd: int) -> None:
    address = libc.mmap(0, PAGE, mman.PROT_READ, mman.MAP_SHARED, fd, 0)
    try:
        libc.mprotect(address, PAGE, mman.PROT_READ | mman.PROT_WRITE)
    finally:
        libc.munmap(address, PAGE)


def _remove(fd: int) -> None:
    address = libc.mmap(0, PAGE, mman.PROT_READ, mman.MAP_SHARED, fd, 0)
    try:
        libc.madvise(address, PAGE, mman.MADV_REMOVE)
    finally:
        libc.munmap(address, PAGE)


ATTEMPTS: dict[str, Callable[[int], object]] = {
    "write": lambda fd: os.pwrite(fd, b"x", 0),
    "map shared and writable": _remap_shared,
    "make a mapping writable": _make_writable,
    "punch a hole": lambda fd: libc.fallocate(fd, _PUNCH, 0, PAGE),
    "remove by madvise": _remove,
    "cut": lambda fd: os.ftruncate(fd, 0),
    "lengthen": lambda fd: os.ftruncate(fd, 1 << 30),
    "seal further": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
}


def _refused(attempt: Callable[[int], object], fd: int) -> bool:
    try:
        attempt(fd)
    except OSError as error:  # not open for it, sealed, or not allowed by the kind of mapping
        return error.errno in (errno.EBADF, errno.EINVAL, errno.EPERM, errno.EACCES)
    return False


@pytest.mark.parametrize("reopened", [False, True])
def test_what_a_client_holds_of_a_copy_cannot_be_changed(
    packed: Path, image: bytes, reopened: bool
) -> None:
    with lazy(packed, policy=SHARED) as mapped:
        mapped.complete()
        fd = mapped._parts.recipe.fd
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR) if reopened else os.dup(fd)
        try:
            assert [
                what for what, attempt in ATTEMPTS.items() if not _refused(attempt, again)
            ] == []
        finally:
            os.close(again)
        with lazy(packed, policy=SHARED) as other:
            other.complete()
            assert other[:] == image


def test_empty_pages_that_a_client_brings_in_are_shown_to_nobody(
    packed: Path, image: bytes
) -> None:
    with lazy(packed, policy=DEMAND) as hostile:
        # A mapping that nobody has registered: reading a hole of it makes an empty page.
        with mmap.mmap(hostile._parts.recipe.fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as alias:
            for page in range(0, len(image) // PAGE, 2):
                assert not alias[page * PAGE]
        for _ in range(2):
            with lazy(packed, policy=SHARED) as other:
                other.complete()
                assert other[:] == image
                counters = other.statistics().counters
                assert counters.copied > 0  # those are its own
        # The kernel may drop an empty page that nobody wrote; then it can be brought in after all.
        assert counters.copied > counters.published
        hostile.complete()
        assert hostile[:] == image


def _granted(packed: Path, length: int) -> asking.Grant:
    from userfault.snapshot.serving import handover

    resolved = handover.resolve(str(packed.parent), packed.name)
    try:
        key = asking.key_of(resolved.fd, length)
        grant = asking.ask(key, -(-length // PAGE))
    finally:
        resolved.close()
    assert grant is not None
    return grant


def _put(grant: asking.Grant, page: int, data: bytes) -> None:
    held = ctypes.create_string_buffer(data, len(data))
    with LiveUserfaultfd.adopt(os.dup(grant.filler)) as filler:
        filler.copy(grant.address + page * PAGE, ctypes.addressof(held), len(data))


def test_a_page_without_a_mark_counts_if_it_is_right(packed: Path, image: bytes) -> None:
    """A pager was killed between page and mark."""
    grant = _granted(packed, len(image))
    pages = [page for page in range(len(image) // PAGE) if any(image[page * PAGE :][:PAGE])]
    left = pages[: len(pages) // 2]
    for page in left:
        _put(grant, page, image[page * PAGE : (page + 1) * PAGE])
    with mmap.mmap(grant.marks, 0) as marks, lazy(packed, policy=SHARED) as mapped:
        mapped.complete()
        assert mapped[:] == image
        assert mapped.statistics().counters.copied == 0
        assert [page for page in pages if not marks[page]] == []
    grant.close()


def test_a_page_without_a_mark_is_not_believed(packed: Path, image: bytes) -> None:
    grant = _granted(packed, len(image))
    pages = [page for page in range(len(image) // PAGE) if any(image[page * PAGE :][:PAGE])]
    for page in pages[::3]:
        _put(grant, page, b"?" * PAGE)
    with mmap.mmap(grant.marks, 0) as marks, lazy(packed, policy=SHARED) as mapped:
        mapped.complete()
        assert mapped[:] == image
        assert mapped.statistics().counters.copied == len(pages[::3])
        assert [page for page in pages if not marks[page]] == pages[::3]
    grant.close()


def test_marks_without_their_pages_cost_sharing_alone(packed: Path, image: bytes) -> None:
    grant = _granted(packed, len(image))
    with mmap.mmap(grant.marks, 0) as marks:
        marks[:] = b"\1" * len(marks)
    with lazy(packed, policy=SHARED) as mapped:
        mapped.complete()
        assert mapped[:] == image
    grant.close()


def test_a_filler_fills_no_other_copy_once_its_own_is_freed(packed: Path, image: bytes) -> None:
    grant = _granted(packed, len(image))
    pid = keeper()
    stale = asking.Grant(os.dup(grant.copy), os.dup(grant.filler), os.dup(grant.marks), -1,
                         grant.address)  # fmt: skip
    grant.close()
    wait_until(lambda: copies(pid) == 0)
    again = _granted(packed, len(image))
    assert again.address != stale.address
    with pytest.raises(OSError, match="UFFDIO_COPY"):
        _put(stale, 0, b"?" * PAGE)
    stale.close()
    again.close()


def test_another_user_is_not_let_in(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o711)
        folder = Path(parent, "run")
        monkeypatch.setenv(place.VARIABLE, str(folder))
        with lazy(packed, policy=SHARED):
            closed = child.run(SCENES + "as_nobody", str(folder))
            assert closed == {"folder": "Permission denied", "socket": "PermissionError"}
            # Whoever opens the folder does not give out what is in it.
            folder.chmod(0o755)
            (folder / place.SOCKET).chmod(0o777)
            opened = child.run(SCENES + "as_nobody", str(folder))
            assert opened["folder"] == "others may enter it, or it is another user's"
            assert opened["socket"].startswith("it runs as user 65534")
            folder.chmod(0o700)


def test_a_process_with_fewer_rights_is_refused(packed: Path) -> None:
    with lazy(packed, policy=SHARED):
        assert "no_new_privs" in child.run(SCENES + "with_a_filter", str(packed))


@pytest.mark.parametrize("kind", ["link", "open", "file"])
def test_a_folder_that_is_not_the_users_own_is_not_used(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "open":
        folder.mkdir()
        folder.chmod(0o770)
    else:
        folder.write_text("")
    monkeypatch.setenv(place.VARIABLE, str(folder))
    with pytest.raises(Unavailable, match="no folder for the keeper"):
        asking.ask(bytes(32), 1)


def test_a_keeper_that_ends_before_it_answers_is_replaced() -> None:
    with place.folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dying:
        dying.bind(place.path_in(folder, place.SOCKET))
        dying.listen()

        def end() -> None:
            channel = dying.accept()[0]
            channel.recv(4096)
            dying.close()
            channel.close()

        thread = threading.Thread(target=end)
        thread.start()
        grant = asking.ask(bytes(32), 1)
        thread.join()
    assert grant is not None
    assert keeper() != os.getpid()
    grant.close()


def test_words_that_make_no_sense_are_refused(packed: Path) -> None:
    with lazy(packed, policy=SHARED):
        pid = keeper()
        for said in (b"", b"x", b"ufcopy99" + bytes(48), b"ufcopy01" + bytes(48), bytes(5000)):
            assert child.run(SCENES + "say", said.hex()) != "granted"
        assert keeper() == pid
        assert copies(pid) == 1
