"""Records the traces under `bench/traces`: `python -m bench.recording FOLDER [NAME...]`.

Each is a touch trace of a real program, as docs/trace.md has them, packed with zstd:

* `array-random`, `array-sorted`: 4,000 items of an array of 64 MiB, as they come and in order;
* `imports`: CPython imports modules of its standard library out of an archive in memory;
* `sqlite`: queries on a database that SQLite maps (`PRAGMA mmap_size`);
* `redis`: a server that was written out and comes back page by page, under GET and SET;
* `boot`: Linux boots in QEMU: the memory of the guest.

The first three are recorded by the pager (`Policy(trace=)`).  Of the others the memory is somebody
else's: `c/touches.c` is preloaded, and serves and records it by single pages.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import random
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import zstandard

import userfault
from bench.native import compiled
from bench.waiting import wait_until
from userfault.kernel.memtypes import BASE_PAGE, MIB
from userfault.lab.cpio import Archive
from userfault.lab.store import Store
from userfault.pager.core import trace

FOLDER = Path(__file__).parent / "traces"
_ITEMS = 4000
_ARRAY = 64 * MIB
_ROWS = 150_000
_KEYS = 150_000
_GUEST = 80  # MiB
_WAIT_S = 120.0


def main(words: Sequence[str]) -> None:
    """Record those that are named, or all."""
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in words[1:] or TRACES:
        with tempfile.TemporaryDirectory(prefix="userfault-traces-") as scratch:
            data = TRACES[name](Path(scratch))
        data = coarse(data)
        recorded = trace.decode(data, name)
        packed = zstandard.ZstdCompressor(level=22).compress(data)
        (folder / f"{name}.trace.zst").write_bytes(packed)
        count = sum(record.what == trace.FAULT for record in recorded.records)
        print(f"{name}: {count} of {recorded.header.pages} pages, {len(packed)} bytes", flush=True)


def coarse(data: bytes) -> bytes:
    """The same trace with times in steps of 8.192 µs: it packs into half."""
    recorded = trace.decode(data)
    begun = recorded.header.begun_ns
    lines = [
        trace.packed(begun + (line.time_ns >> 13 << 13), *line[1:]) for line in recorded.records
    ]
    return trace.begin(recorded.header) + b"".join(lines)


# --- by the pager --------------------------------------------------------------------------------


def _recorded(image: Path, touch: Callable[[userfault.LazyMemory], None]) -> bytes:
    path = image.with_suffix(".trace")
    policy = userfault.Policy(background=False, window_bytes=1, trace=str(path))
    with userfault.lazy(image, policy=policy) as memory:
        touch(memory)
    return path.read_bytes()


def _array(scratch: Path, order: Callable[[list[int]], list[int]]) -> bytes:
    image = scratch / "array"
    image.write_bytes(random.Random(1).randbytes(_ARRAY))
    items = order(random.Random(2).sample(range(_ARRAY // 8), _ITEMS))

    def touch(memory: userfault.LazyMemory) -> None:
        total = 0.0
        for item in items:
            total += struct.unpack_from("<q", memory, 8 * item)[0]

    return _recorded(image, touch)


_MODULES = (
    *("argparse", "asyncio", "calendar", "csv", "ctypes", "dataclasses", "decimal", "difflib"),
    *("email.mime.text", "fractions", "ftplib", "html.parser", "http.server", "imaplib", "json"),
    *("logging.config", "mailbox", "multiprocessing.pool", "pdb", "pickletools", "pydoc"),
    *("sqlite3", "statistics", "tarfile", "turtledemo", "unittest.mock", "urllib.request"),
    *("wsgiref.simple_server", "xml.dom.minidom", "xml.sax", "xmlrpc.client", "zipfile"),
)


class _File(io.RawIOBase):
    """Memory as a file (an mmap object has no `seekable` before Python 3.13)."""

    def __init__(self, memory: userfault.LazyMemory) -> None:
        self._memory = memory

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._memory.tell(), len(self._memory))[whence]
        self._memory.seek(start + offset)
        return self._memory.tell()

    def tell(self) -> int:
        return self._memory.tell()

    def read(self, size: int = -1) -> bytes:
        return self._memory.read(size)


class _Importer(importlib.abc.InspectLoader, importlib.abc.MetaPathFinder):
    """Modules out of an archive that lies in memory."""

    def __init__(self, memory: userfault.LazyMemory) -> None:
        self._held = zipfile.ZipFile(_File(memory))
        self._names = set(self._held.namelist())

    def find_spec(self, name: str, *_rest: object) -> importlib.machinery.ModuleSpec | None:
        if not self._path(name):
            return None
        return importlib.util.spec_from_loader(name, self, is_package=self.is_package(name))

    def is_package(self, fullname: str) -> bool:
        return self._path(fullname).endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        return self._held.read(self._path(fullname)).decode(errors="replace")

    def _path(self, name: str) -> str:
        base = name.replace(".", "/")
        found = [each for each in (f"{base}/__init__.py", f"{base}.py") if each in self._names]
        return found[0] if found else ""


def import_out_of(archive: str, trace_to: str) -> None:
    """In a process of its own: import modules out of it, those that are not imported yet."""
    policy = userfault.Policy(background=False, window_bytes=1, trace=trace_to)
    with userfault.lazy(archive, policy=policy) as memory:
        sys.meta_path.insert(0, _Importer(memory))
        for name in _MODULES:
            importlib.import_module(name)


def _imports(scratch: Path) -> bytes:
    archive, out = scratch / "library.zip", scratch / "trace"
    library = Path(sysconfig.get_paths()["stdlib"])
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as held:
        for path in sorted(library.rglob("*.py")):
            if "site-packages" not in path.parts and "test" not in path.parts:
                held.write(path, path.relative_to(library))
    words = "import sys, bench.recording as it; it.import_out_of(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", words, str(archive), str(out)], check=True)
    return out.read_bytes()


# --- by the library that is preloaded ------------------------------------------------------------


def _preloaded(scratch: Path, what: str, file: Path) -> dict[str, str]:
    """The environment of a program that is recorded."""
    library = scratch / "touches.so"
    compiled("touches.c", library, ["-shared", "-fPIC", "-lpthread"])
    out = str(scratch / "records")
    return {**os.environ, "LD_PRELOAD": str(library), "TOUCHES_OUT": out, what: str(file)}


def _of_records(scratch: Path, memory: str) -> bytes:
    data = (scratch / "records").read_bytes()
    (pages,) = struct.unpack_from("=Q", data)
    (first,) = struct.unpack_from("=Q", data, 8)
    header = trace.Header(
        page_size=BASE_PAGE, pages=pages, memory=memory, source="file", begun_ns=first >> 8
    )
    return trace.begin(header) + data[8:]


_QUERIES = """
import random, sqlite3, sys
held = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
held.execute("pragma mmap_size=1073741824")
held.execute("pragma cache_size=16")
dice = random.Random(7)
for _ in range(1500):
    key = dice.randrange(int(sys.argv[2]))
    held.execute("select body from items where id = ?", (key,)).fetchone()
for _ in range(30):
    word = f"name{dice.randrange(1000)}"
    held.execute("select count(*), max(number) from items where name = ?", (word,)).fetchone()
held.execute("select sum(number) from items where id between 1000 and 9000").fetchone()
"""


def _sqlite(scratch: Path) -> bytes:
    file = scratch / "database"
    dice = random.Random(3)
    with sqlite3.connect(file) as held:
        held.execute("create table items (id integer primary key, name, number, body)")
        rows = (
            (at, f"name{dice.randrange(1000)}", dice.getrandbits(40), dice.randbytes(300))
            for at in range(_ROWS)
        )
        held.executemany("insert into items values (?, ?, ?, ?)", rows)
        held.execute("create index by_name on items (name)")
    held.close()
    words = [sys.executable, "-c", _QUERIES, str(file), str(_ROWS)]
    subprocess.run(words, env=_preloaded(scratch, "TOUCHES_MAP", file), check=True)
    return _of_records(scratch, "anon")


def _redis(scratch: Path) -> bytes:
    path = scratch / "socket"
    words = [
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--enable-debug-command",
        "yes",
    ]
    server = subprocess.Popen(
        [_program("redis-server"), *words],
        env=_preloaded(scratch, "TOUCHES_HEAP", scratch / "heap"),
        stdout=subprocess.DEVNULL,
        cwd=scratch,
    )
    try:
        wait_until(path.exists, _WAIT_S, "Redis does not come up")
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(_WAIT_S)
            channel.connect(str(path))
            _ask(channel, "DEBUG", "POPULATE", str(_KEYS), "key", "200")
            server.send_signal(signal.SIGUSR1)
            _ask(channel, "PING")
            server.send_signal(signal.SIGUSR2)
            records = scratch / "records"
            wait_until(lambda: records.stat().st_size > 0, _WAIT_S, "nothing was recorded")
            dice = random.Random(4)
            for number in range(2500):
                key = f"key:{dice.randrange(_KEYS)}"
                if number % 10:
                    _ask(channel, "GET", key)
                else:
                    _ask(channel, "SET", key, "v" * dice.randrange(300))
    finally:
        server.kill()
        server.wait()
    return _of_records(scratch, "anon")


def _ask(channel: socket.socket, *words: str) -> bytes:
    text = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    channel.sendall(f"*{len(words)}\r\n{text}".encode())
    answer = channel.recv(1 << 16)
    if not answer or answer.startswith(b"-"):
        raise RuntimeError(f"redis: {answer!r}")
    return answer


_INIT = """#!/bin/busybox sh
/bin/busybox echo it has booted
/bin/busybox poweroff -f
"""


def _boot(scratch: Path) -> bytes:
    store = Store()
    kernel = store.kernels()[0]  # `userfault lab fetch` has brought it
    system = Archive()
    system.directory("bin")
    system.file("bin/busybox", store.busybox().read_bytes(), 0o755)
    system.file("init", _INIT.encode(), 0o755)
    initrd, memory = scratch / "initrd", scratch / "memory"
    initrd.write_bytes(system.pack())
    with memory.open("wb") as file:
        file.truncate(_GUEST * MIB)
    words = [
        *("-accel", "tcg", "-m", f"{_GUEST}M", "-nographic", "-nodefaults", "-no-reboot"),
        *("-object", f"memory-backend-file,id=m,size={_GUEST}M,mem-path={memory},share=on"),
        *("-machine", "pc,memory-backend=m", "-kernel", str(kernel.vmlinuz)),
        *("-initrd", str(initrd), "-append", "console=ttyS0 panic=-1", "-serial", "stdio"),
    ]
    done = subprocess.run(
        [_program("qemu-system-x86_64"), *words],
        env=_preloaded(scratch, "TOUCHES_MAP", memory),
        check=True,
        stdout=subprocess.PIPE,
        timeout=10 * _WAIT_S,
    )
    if b"it has booted" not in done.stdout:
        raise RuntimeError(f"the guest did not boot: {done.stdout[-1000:]!r}")
    return _of_records(scratch, "anon")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: apt-get install it")
    return found


TRACES: dict[str, Callable[[Path], bytes]] = {
    "array-random": lambda scratch: _array(scratch, lambda items: items),
    "array-sorted": lambda scratch: _array(scratch, sorted),
    "imports": _imports,
    "sqlite": _sqlite,
    "redis": _redis,
    "boot": _boot,
}

if __name__ == "__main__":
    main(sys.argv[1:])
