"""The kernels that were fetched: folders of a cache, each whole or not there.

`lab/SUITE/VERSION/`: the kernel, its modules, busybox, and `about.json`.  A folder is renamed into
place when it is whole; a lock for each suite lets one fetch at a time work on it.  The cache is
made in a new or an empty folder, and marked; what is removed is what `tempfile` named for us.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from userfault.check.live.agent.build import cache_directory
from userfault.kernel.errors import Unavailable, UsageError
from userfault.lab import sources
from userfault.lab.apt import Apt, FetchFailed, NoPackage, remove_leftovers
from userfault.lab.suites import SUITES, Suite
from userfault.snapshot.stores import folders, marks

_META = "linux-image-cloud-amd64"
_BUSYBOX = "busybox-static"


class Kernel(msgspec.Struct, frozen=True):
    """A kernel that can be booted.

    `release`: its own word (`uname -r`).  `modules`: their directory; None: it needs none.
    """

    name: str
    release: str
    vmlinuz: str
    modules: str | None
    busybox: str
    suite: str = ""
    version: str = ""  # of the package


class Store:
    """The cache of kernels in a directory (by default the user's own).

    `etc`: where apt's lists of sources are.
    """

    def __init__(self, root: Path | None = None, etc: Path = sources.ETC) -> None:
        self.root = (root or cache_directory() / "lab").absolute()
        self._etc = etc

    def kernels(self) -> list[Kernel]:
        """All that are there, the newest of each suite first, in the order of the suites."""
        found = []
        for name in SUITES:
            suite = [_load(about) for about in (self.root / name).glob("*/about.json")]
            found += sorted(suite, key=lambda kernel: numbers(kernel.version), reverse=True)
        return found

    def find(self, name: str) -> Kernel:
        """The newest kernel of a suite or a release (`7.3`, `7.3.4`).  Raises UsageError."""
        known = self.kernels()
        for kernel in known:
            if kernel.suite == name:
                return kernel
        wanted = numbers(name)
        for kernel in known:
            if wanted and numbers(kernel.version)[: len(wanted)] == wanted:
                return kernel
        there = ", ".join(f"{k.suite} ({k.version})" for k in known) or "none"
        raise UsageError(
            f"there is no kernel {name!r}",
            cause=f"fetched are: {there}",
            cure="`userfault lab fetch`, or name a suite: " + ", ".join(SUITES),
        )

    def fetch(self, suite: Suite, tell: Callable[[str], None] = lambda _: None) -> Kernel:
        """The newest kernel of a suite; downloads it if it is not there yet.

        Raises NoPackage (no apt, no network, no such package) or FetchFailed (no space).
        """
        with self.working_on(suite, tell) as apt:
            return self._newest(apt, suite, tell)

    @contextlib.contextmanager
    def working_on(self, suite: Suite, tell: Callable[[str], None]) -> Iterator[Apt]:
        """Alone with a suite: an apt that has asked its mirror.

        Raises NoPackage or FetchFailed.
        """
        mirror = sources.mirror(self._etc)
        try:
            with self.locked(suite):
                remove_leftovers(self.root, _unfinished(suite))  # of a fetch that was killed
                tell(f"{suite.name}: asking {mirror.archive.uri}")
                home = self.root / "apt" / suite.name
                lines = sources.lines(mirror, suite.parts)
                apt = Apt(home, lines, preferred=suite.preferred)
                apt.update()
                yield apt
        except OSError as error:
            if isinstance(error, Unavailable):
                raise
            cure = "free some space, or choose another --cache" if _full(error) else ""
            raise FetchFailed(
                f"cannot keep a kernel in {self.root}", cause=str(error), cure=cure
            ) from None

    def busybox(self) -> Path:
        """A busybox without libraries: that of a kernel that is there, else a fetched one."""
        for kernel in self.kernels():
            return Path(kernel.busybox)
        return Path(self.fetch(SUITES["trixie"]).busybox)

    def _newest(self, apt: Apt, suite: Suite, tell: Callable[[str], None]) -> Kernel:
        packages = newest_packages(apt, suite.series)
        version = next(iter(packages.values()))
        target = self.root / suite.name / version
        about = target / "about.json"
        if about.exists():
            return _load(about)
        busybox = apt.show(_BUSYBOX)
        tell(f"{suite.name}: downloading {' '.join(packages)}")
        target.parent.mkdir(exist_ok=True)
        tree = Path(tempfile.mkdtemp(dir=self.root, prefix=_unfinished(suite)))
        try:
            apt.unpack({**packages, _BUSYBOX: busybox["Version"]}, tree)
            found = _describe(tree, suite, version)
            (tree / "about.json").write_bytes(msgspec.json.encode(found))
            _move(tree, target)
        finally:
            shutil.rmtree(tree, ignore_errors=True)
        return _load(about)

    @contextlib.contextmanager
    def locked(self, suite: Suite) -> Iterator[None]:
        """Alone with what the cache has of a suite."""
        with contextlib.suppress(FileExistsError):
            folders.make_durably(str(self.root), 0o700)
        with folders.named(str(self.root)) as root:
            marks.claim(root, str(self.root), _MARK, into_existing=False)
            file = os.open(f"{suite.name}.lock", _LOCK, 0o600, dir_fd=root)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def own_kernel(store: Store, vmlinuz: Path, modules: Path | None) -> Kernel:
    """A kernel of the user's own.  Raises NoPackage where there is no busybox to boot it with."""
    release = modules.resolve().name if modules else vmlinuz.name
    return Kernel(
        name=vmlinuz.name,
        release=release,
        vmlinuz=str(vmlinuz),
        modules=str(modules) if modules else None,
        busybox=str(store.busybox()),
    )


def newest_packages(apt: Apt, series: str = "") -> dict[str, str]:
    """The packages (name: version) of the newest kernel, or of the newest of a series.

    From 7.x on an image is split: the kernel in linux-binary-*, the modules in linux-modules-*.
    """
    if series:
        name = _newest_image(apt, series)
        parts = apt.show(name)
        version = parts["Version"]
    else:
        image = _depends(apt.show(_META), "linux-image-")
        name, version = next(iter(image.items()))
        parts = apt.show(name)
    split = {**_depends(parts, "linux-binary-"), **_depends(parts, "linux-modules-")}
    return split or {name: version}


def _newest_image(apt: Apt, series: str) -> str:
    """No package depends on the newest image of a series that is not the newest: by its name."""
    prefix = f"linux-image-{series}."
    wanted = re.compile(rf"{re.escape(prefix)}\d+\S*-cloud-amd64")
    found = [name for name in apt.names(prefix) if wanted.fullmatch(name)]
    if not found:
        raise NoPackage(
            f"the mirror has no kernel {series}",
            cause="an archive keeps kernels between its releases for a while, or not at all",
            cure="`userfault lab run --kernel VMLINUZ --modules DIR` takes one of your own",
        )
    return max(found, key=lambda name: numbers(name.removeprefix("linux-image-")))


def _move(tree: Path, target: Path) -> None:
    try:
        tree.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise FetchFailed(
            f"cannot keep a kernel as {target}",
            cause="there is something else of this name, or what somebody has half removed",
            cure="remove it, if it is not needed",
        ) from None


def _earlier(root: int, names: set[str]) -> bool:
    """A release that wrote no mark made the lock of a suite, which is empty, and apt's folder."""
    locks = {f"{suite}.lock" for suite in SUITES} & names
    return "apt" in names and any(os.stat(lock, dir_fd=root).st_size == 0 for lock in locks)


_MARK = marks.CACHE._replace(what="cache of kernels", earlier=_earlier)
_LOCK = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def _unfinished(suite: Suite) -> str:
    return f"unfinished-{suite.name}."


def _depends(fields: dict[str, str], prefix: str) -> dict[str, str]:
    found = re.findall(r"(\S+) \(= ([^)]+)\)", fields.get("Depends", ""))
    return {name: version for name, version in found if name.startswith(prefix)}


def _load(about: Path) -> Kernel:
    """The kernel that a file describes; its paths are below the file's folder."""
    found = msgspec.json.decode(about.read_bytes(), type=Kernel)
    place = about.parent
    return msgspec.structs.replace(
        found,
        vmlinuz=str(place / found.vmlinuz),
        modules=str(place / found.modules) if found.modules else None,
        busybox=str(place / found.busybox),
    )


def _describe(tree: Path, suite: Suite, version: str) -> Kernel:
    """What was unpacked; paths are relative to the folder."""
    kernels = [*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz")]
    modules = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
    busybox = [*tree.glob("bin/busybox"), *tree.glob("usr/bin/busybox")]
    if not (kernels and modules and busybox):
        raise FetchFailed(
            f"the packages of {suite.name} hold no kernel",
            cause="they are built in another way than this release of userfault knows",
        )
    return Kernel(
        name=suite.name,
        release=modules[0].name,
        vmlinuz=str(kernels[0].relative_to(tree)),
        modules=str(modules[0].relative_to(tree)),
        busybox=str(busybox[0].relative_to(tree)),
        suite=suite.name,
        version=version,
    )


def numbers(release: str) -> tuple[int, ...]:
    """`6.12.117+deb13` as (6, 12, 117); empty for what is no release."""
    found = re.match(r"\d+(?:\.\d+)+", release)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
