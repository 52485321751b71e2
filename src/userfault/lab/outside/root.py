"""A root to build modules in: the headers of a kernel, and the compiler that its suite has.

The compiler and the tools of a kernel's headers want the C library of their own suite (objtool of
7.3.4+deb13 wants glibc 2.38), so they run in a root of their own: packages that are unpacked, not
installed, into a folder of the cache, some 350 MB.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from userfault.kernel.errors import Unavailable
from userfault.lab.apt import Apt, FetchFailed, NoPackage, remove_leftovers
from userfault.lab.store import Kernel, Store, numbers
from userfault.lab.suites import SUITES

FIRST_RELEASE = (7, 1)  # that has vm_uffd_ops
FOLDER = "headers"
_UNFINISHED = "unfinished."
# What the headers' packages depend on is fetched with them (the compiler, objtool, pahole).
_TOOLS = ("binutils", "make", "dash", "coreutils", "sed", "grep", "mawk", "findutils", "diffutils")
_MERGED = ("bin", "sbin", "lib", "lib64")  # links into usr, made by a package's script elsewhere


def headers_root(store: Store, kernel: Kernel, tell: Callable[[str], None]) -> Path:
    """The root in which modules for a kernel can be built; downloads it if it is not there yet.

    Raises Unavailable for a kernel before 7.1 or one of the user's own, NoPackage where the mirror
    has no headers of it (any more), FetchFailed where there is no space.
    """
    _check(kernel)
    target = store.root / FOLDER / kernel.suite / kernel.version
    if target.exists():
        return target
    suite = SUITES[kernel.suite]
    with store.working_on(suite, tell) as apt:
        if target.exists():  # another process was at it
            return target
        package = f"linux-headers-{kernel.release}"
        packages = _packages(apt, package, kernel.version)
        tell(f"{suite.name}: downloading {package}, a compiler, and what they need")
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, _UNFINISHED)
        tree = Path(tempfile.mkdtemp(dir=target.parent, prefix=_UNFINISHED))
        try:
            _unpack(apt, packages, tree)
            if not (tree / "lib/modules" / kernel.release / "build").is_dir():
                raise FetchFailed(
                    f"{package} holds no headers of {kernel.release}",
                    cause="it is built in another way than this release of userfault knows",
                )
            tree.rename(target)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
    return target


def _check(kernel: Kernel) -> None:
    if not kernel.suite:
        raise Unavailable(
            f"no module can be built for {kernel.name}",
            cause="it is a kernel of your own: no package has its headers",
            cure="name a suite, as trixie-backports",
        )
    if numbers(kernel.release)[:2] < FIRST_RELEASE:
        raise Unavailable(
            f"Linux {kernel.release} takes no memory type from a module",
            cause="vm_uffd_ops came with 7.1",
            cure="name a newer kernel, as trixie-backports",
        )


def _packages(apt: Apt, package: str, version: str) -> dict[str, str]:
    try:
        return apt.with_dependencies([f"{package}={version}", *_TOOLS])
    except NoPackage as error:
        raise NoPackage(
            f"the mirror has no package {package} {version}",
            cause=error.cause,
            cure="headers vanish from a mirror with their kernel: `userfault lab fetch` gets a"
            " newer one, whose headers are there",
        ) from None


def _unpack(apt: Apt, packages: dict[str, str], tree: Path) -> None:
    for name in _MERGED:
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    apt.unpack(packages, tree)
    for name in ("dev", "proc", "tmp", "build"):
        (tree / name).mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):  # else an alternative, made by a package's script
        (tree / "usr/bin/awk").symlink_to("mawk")
