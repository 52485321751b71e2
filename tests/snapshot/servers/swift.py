"""A real S3 service: OpenStack Swift from Debian with its s3api middleware, on loopback ports.

One proxy, one account, container and object server each, a single replica, all from configuration
in one folder.  Users are tempauth's.  No memcached: only Swift's own tokens would need it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pathlib
import subprocess
from collections.abc import Iterator

from snapshot.servers.packages import need_packages
from snapshot.servers.ports import NotStartedError, free_ports, launch, listens, stop
from snapshot.servers.s3 import S3

PACKAGES = ("swift-proxy", "swift-account", "swift-container", "swift-object")
_PYTHON = "/usr/bin/python3"  # the one that Debian's packages belong to
_SECRET = "the-secret-of-tester"
_RINGS = ("account", "container", "object")

# The servers read swift.conf from a folder of their own instead of /etc/swift.
_LAUNCH = """
import sys
from swift.common import utils
utils.set_swift_dir(sys.argv[1])
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(sys.argv[2], sys.argv[3], verbose=True))
"""

# One device, one replica, 2**4 partitions for each ring: what swift-ring-builder does.
_RINGS_OF = """
import sys
from swift.common.ring import RingBuilder
folder, names, ports = sys.argv[1], sys.argv[2::2], sys.argv[3::2]
for name, port in zip(names, ports):
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port),
                     "device": "d1", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""

_SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
[storage-policy:0]
name = one
default = yes
"""

_COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
log_address = {folder}/no-syslog
"""

_PROXY = """
[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:s3api]
use = egg:swift#s3api
allow_multipart_uploads = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
"""

_STORAGE = """
[pipeline:main]
pipeline = {ring}-server
[app:{ring}-server]
use = egg:swift#{ring}
"""


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[S3]:
    """Swift, while the body runs.  Skips where it cannot be installed or started."""
    need_packages(PACKAGES, "/usr/bin/swift-proxy-server")
    ports = dict(zip(("proxy", *_RINGS), free_ports(4), strict=True))
    _configure(folder, ports)
    with contextlib.ExitStack() as stack:
        servers = {name: _start(folder, name) for name in ports}
        for server in servers.values():
            stack.callback(stop, server)
        for name, port in ports.items():
            if not listens(port, servers[name], seconds=90):
                text = (folder / f"{name}.log").read_text(errors="replace")
                raise NotStartedError(f"swift-{name}-server did not start:\n{text[-3000:]}")
        found = S3(ports["proxy"], "images", "test:tester", _SECRET)
        found.make_bucket()
        yield found


def _configure(folder: pathlib.Path, ports: dict[str, int]) -> None:
    (folder / "devices" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(_SWIFT_CONF)
    for name, port in ports.items():
        text = _COMMON.format(port=port, user=getpass.getuser(), folder=folder)
        if name == "proxy":
            text += _PROXY.format(memcached=1, secret=_SECRET)
        else:
            text += _STORAGE.format(ring=name)
        (folder / f"{name}.conf").write_text(text)
    rings = [word for name in _RINGS for word in (name, str(ports[name]))]
    subprocess.run(
        [_PYTHON, "-I", "-c", _RINGS_OF, folder, *rings],
        check=True,
        capture_output=True,
        timeout=90,
    )


def _start(folder: pathlib.Path, name: str) -> subprocess.Popen[bytes]:
    return launch(
        [_PYTHON, "-I", "-c", _LAUNCH, folder, folder / f"{name}.conf", f"{name}-server"],
        folder / f"{name}.log",
        {"PATH": os.environ["PATH"]},
    )
