"""What a guest boots from: cpio archives, made in memory.

The first archive is the system: busybox, the kernel's modules, the first script.  What it is to
run comes in a second one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from userfault.check.live.agent.build import agent_path, build
from userfault.lab.cpio import Archive
from userfault.lab.modules import Modules
from userfault.lab.outside import FILE_SYSTEM
from userfault.lab.python import add_path, add_python

_INSIDE = Path(__file__).with_name("inside")
# virtio and its console; a disk in memory; KVM on top of emulated SVM (ccp where it is a module).
_MODULES = (
    *("virtio_pci", "virtio_console", "brd", "ext4"),
    *("irqbypass", "ccp", "kvm", "kvm_amd"),
)
PORTS = "/dev/vport0p"
OUTPUT, ERRORS, STATUS = (f"{PORTS}{number}" for number in (1, 2, 3))
DISK = "/disk"
OUTSIDE = "/outside"  # the files of the memory type from outside (outside/), where it is wanted
_HUGE_PAGES = 64  # of 2 MiB, for a command


def system(busybox: Path, modules: Path | None, outside: Path | None = None) -> bytes:
    """The system of a guest; with `outside`, a memory type's module, its files are at OUTSIDE."""
    archive = Archive()
    archive.file("init", (_INSIDE / "init.sh").read_bytes(), 0o755)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for name in ("dev", "proc", "sys", "tmp", "disk"):
        archive.directory(name)
    order = Modules(modules).load_order(_MODULES) if modules else []
    if outside is not None:
        order.append((FILE_SYSTEM, outside.read_bytes()))
        archive.directory(OUTSIDE.lstrip("/"))
    archive.file("modules/order", "".join(f"{name}\n" for name, _ in order).encode())
    for name, data in order:
        archive.file(f"modules/{name}.ko", data)
    return archive.pack()


def agents() -> bytes:
    """The payload of a guest that is a host of agents.  Raises NoAgent without a compiler."""
    archive = Archive()
    archive.file("bin/agent", agent_path().read_bytes(), 0o755)
    archive.file("bin/mux", build(_INSIDE / "mux.c", ("-O1", "-static")).read_bytes(), 0o755)
    run = f"exec /bin/mux {PORTS} /bin/agent </dev/null >/dev/null 2>/dev/console\n"
    archive.file("run", run.encode())
    return archive.pack()


def command(words: Sequence[str], environment: Mapping[str, str], files: Iterable[Path]) -> bytes:
    """The payload of a guest that runs one command, with Python and the project inside."""
    archive = Archive()
    add_python(archive)
    for path in files:
        add_path(archive, path)
    told = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    archive.file(
        "run",
        (
            "busybox --install -s /bin 2>/dev/null\n"  # what is there already stays
            f"echo {_HUGE_PAGES} >/proc/sys/vm/nr_hugepages\n"
            f"{told}cd /tmp\n"
            f"echo begins >{STATUS}\n"
            f"{shlex.join(words)} </dev/null >{OUTPUT} 2>{ERRORS}\n"
            f"echo $? >{STATUS}\n"
            "busybox poweroff -f\n"
        ).encode(),
    )
    return archive.pack()
