"""Certificates as CRIU's users make them, by openssl(1)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from helpers.skips import absent
from userfault.serve.page_server.tls import Tls


class Authority:
    """Signs certificates.  `folder`: where its files and those that it makes are."""

    def __init__(self, folder: Path) -> None:
        if not shutil.which("openssl"):
            absent("openssl(1) makes the certificates")
        self.folder = folder
        folder.mkdir()
        self._made("ca", "-x509", "-addext", "basicConstraints=critical,CA:TRUE")

    def certificate(self, name: str, address: str = "127.0.0.1") -> Tls:
        """Of `name`, for a host at this address."""
        ca = self.folder / "ca"
        self._made(
            name,
            *("-x509", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-addext", f"subjectAltName=IP:{address}"),
        )
        return Tls(f"{self.folder / name}.pem", f"{self.folder / name}.key", f"{ca}.pem")

    def _made(self, name: str, *more: str) -> None:
        path = self.folder / name
        command = ["openssl", "req", "-new", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-keyout", f"{path}.key", "-out", f"{path}.pem"]
        subprocess.run([*command, *more], capture_output=True, check=True)


def as_options(tls: Tls) -> list[str]:
    """As CRIU is told, and `userfault serve`."""
    return ["--tls", "--tls-cacert", tls.cacert, "--tls-cert", tls.cert, "--tls-key", tls.key]
