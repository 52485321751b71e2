"""A package archive in a folder, with small packages that look like Debian's kernels."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

RELEASE = "{version}-cloud-amd64"


class Repository:
    """An archive with one suite; `publish()` writes its index."""

    def __init__(self, root: Path, suite: str = "trixie") -> None:
        self.root = root / "archive"
        self.suite = suite
        self._stanzas: list[str] = []
        self.etc = root / "etc"
        self.etc.mkdir(parents=True)
        (self.etc / "sources.list").write_text(
            f"deb [trusted=yes] file:{self.root} {suite} main contrib\n"
        )

    def package(self, name: str, version: str, depends: str, files: dict[str, bytes]) -> Path:
        """Build a package and note it."""
        tree = self.root / "build" / name
        (tree / "DEBIAN").mkdir(parents=True)
        stanza = (
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: tests\n"
            f"Description: for tests\n{f'Depends: {depends}' + chr(10) if depends else ''}"
        )
        (tree / "DEBIAN" / "control").write_text(stanza)
        for path, data in files.items():
            place = tree / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        target = self.root / "pool" / f"{name}_{version}_amd64.deb"
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["dpkg-deb", "-Znone", "-b", str(tree), str(target)], check=True, capture_output=True
        )
        data = target.read_bytes()
        self._stanzas.append(
            f"{stanza}Filename: {target.relative_to(self.root)}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        return target

    def kernel(self, version: str, *, split: bool = False, padding: int = 0) -> list[Path]:
        """The packages of a kernel; the one that names it counts by its version."""
        release = RELEASE.format(version=version)
        vmlinuz = b"kernel " + version.encode() + bytes(padding)
        module = {f"usr/lib/modules/{release}/kernel/one.ko": b"\0depends=\0"}
        image = f"linux-image-{release}"
        if split:
            binary, modules = f"linux-binary-{release}", f"linux-modules-{release}"
            built = [
                self.package(binary, version, "", {f"usr/lib/modules/{release}/vmlinuz": vmlinuz}),
                self.package(modules, version, "", module),
                self.package(
                    image, version, f"{binary} (= {version}), {modules} (= {version})", {}
                ),
            ]
        else:
            files = {f"boot/vmlinuz-{release}": vmlinuz, **module}
            built = [self.package(image, version, "kmod, linux-base (>= 4.3~)", files)]
        meta = f"linux-image-cloud-amd64-{version}"
        tree = self.package(meta, version, f"{image} (= {version})", {})
        self._stanzas[-1] = self._stanzas[-1].replace(
            f"Package: {meta}\n", "Package: linux-image-cloud-amd64\n"
        )
        return [*built, tree]

    def publish(self) -> None:
        """Write the index of the suite."""
        place = self.root / "dists" / self.suite / "main" / "binary-amd64"
        place.mkdir(parents=True, exist_ok=True)
        (place / "Packages").write_text("\n".join(self._stanzas))
        packages = (place / "Packages").read_bytes()
        (self.root / "dists" / self.suite / "Release").write_text(
            f"Suite: {self.suite}\nCodename: {self.suite}\nComponents: main\nArchitectures: amd64\n"
            f"SHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)}"
            " main/binary-amd64/Packages\n"
        )
