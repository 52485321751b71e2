"""Building the module for one kernel, in a root with that kernel's headers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from userfault.kernel.errors import Unavailable, UserfaultError
from userfault.lab.apt import FetchFailed, remove_leftovers
from userfault.lab.outside import FILE_SYSTEM
from userfault.lab.outside.root import headers_root
from userfault.lab.store import Kernel, Store
from userfault.lab.suites import SUITES

SOURCE = Path(__file__).with_name(f"{FILE_SYSTEM}.c")
FOLDER = "modules"
_UNFINISHED = "unfinished."
_WITHIN_S = 300.0
# In namespaces of its own: what is mounted there goes with it.  objtool reads /proc.
_ENTER = (
    'mount --rbind /dev "$1/dev" && mount --rbind /proc "$1/proc" && mount --bind "$2" "$1/build"'
    ' && exec chroot "$1" /bin/sh -c "$3"'
)
_BUILD = (
    "cd /build && make -s -C /lib/modules/{release}/build M=/build CONFIG_DEBUG_INFO_BTF_MODULES="
    " modules && strip --strip-debug {name}.ko"
)


class NoBuild(UserfaultError):  # noqa: N818  # reads as what happened
    """The module could not be built; `cause` is what the compiler said."""


def module_for(
    store: Store,
    kernel: Kernel,
    tell: Callable[[str], None] = lambda _: None,
    source: Path = SOURCE,
) -> Path:
    """The module for a kernel, built unless it is there already.

    Raises NoBuild, and what `headers_root` raises.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    name = f"{kernel.release}-{digest}.ko"
    target = store.root / FOLDER / name
    if target.exists():
        return target
    root = headers_root(store, kernel, tell)
    try:
        with store.locked(SUITES[kernel.suite]):
            if not target.exists():  # nobody else was at it
                tell(f"{kernel.suite}: building a module for {kernel.release}")
                target.parent.mkdir(exist_ok=True)
                _build_into(target, root, kernel.release, source)
    except OSError as error:
        if isinstance(error, UserfaultError):
            raise
        raise FetchFailed(f"cannot keep a module in {target.parent}", cause=str(error)) from None
    return target


def _build_into(target: Path, root: Path, release: str, source: Path) -> None:
    remove_leftovers(target.parent, _UNFINISHED)  # of a build that was killed
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=_UNFINISHED))
    try:
        shutil.copyfile(source, folder / f"{FILE_SYSTEM}.c")
        (folder / "Kbuild").write_text(f"obj-m := {FILE_SYSTEM}.o\n")
        _make(root, folder, release)
        (folder / f"{FILE_SYSTEM}.ko").rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(root: Path, folder: Path, release: str) -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        raise Unavailable(
            "cannot build a module: no unshare", cure="on Debian: apt-get install util-linux"
        )
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    build = _BUILD.format(release=release, name=FILE_SYSTEM)
    try:
        done = subprocess.run(
            [unshare, *as_root, "--mount", "sh", "-c", _ENTER, "sh", root, folder, build],
            env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        raise NoBuild(f"building a module took more than {_WITHIN_S:.0f} s") from None
    if done.returncode:
        raise NoBuild(f"the module does not build for {release}", cause=_complaint(done.stderr))


def _complaint(told: str) -> str:
    """The first line that says why: a compiler's error, else the last of all."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = (line for line in lines if "error:" in line or "undefined!" in line)
    return next(errors, lines[-1] if lines else "it says nothing")
