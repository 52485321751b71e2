"""Other programs, and devices of virtual machines."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess

from userfault.doctor.finding import Finding, State, degraded, missing, ok
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux import guest_memfd
from userfault.uapi import kvm as abi

_TAKES_S = 20.0
_QEMU = ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm", "/usr/libexec/qemu-kvm")
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)


def kvm() -> Finding:
    """A virtual machine, made."""
    why = "virtual machines run on it"
    try:
        device = os.open(guest_memfd.DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        cure = "load kvm_intel or kvm_amd, join the group `kvm`; in a container pass /dev/kvm"
        return missing("kvm", f"{guest_memfd.DEVICE}: {error.strerror}", why, cure)
    try:
        version = fcntl.ioctl(device, abi.KVM_GET_API_VERSION, 0)
        os.close(fcntl.ioctl(device, abi.KVM_CREATE_VM, 0))
    except OSError as error:
        found = f"KVM_CREATE_VM: {error.strerror}"
        return missing("kvm", found, why, "see what the kernel's log says of KVM")
    finally:
        os.close(device)
    return ok("kvm", f"a machine was made (API {version})", why)


def private() -> Finding:
    """guest_memfd, made and mappable."""
    why = "memory of a guest that the host maps only where that is allowed"
    try:
        os.close(guest_memfd.create(4096))
    except MemoryUnavailable as error:
        return degraded("guest_memfd", f"{error.what}: {error.cause}", why, error.cure)
    return ok("guest_memfd", "one was made", why)


def criu() -> Finding:
    """CRIU, and what it thinks of this kernel."""
    why = "it dumps and restores processes; old releases fail on newer kernels"
    found = shutil.which("criu") or shutil.which("criu", path="/usr/sbin:/usr/local/sbin")
    cure = "install CRIU 4.2 or newer"
    if found is None:
        return missing("criu", "not found", why, cure)
    version = _says(found, "--version").partition("\n")[0]
    checked = _run(found, "check")
    if checked is None or checked.returncode:
        said = (checked.stderr.strip().splitlines() or ["no reason given"])[-1] if checked else ""
        return degraded("criu", f"{version}; criu check: {said}", why, f"{cure}; run it as root")
    return ok("criu", f"{version}; criu check is content", why)


def qemu() -> Finding:
    """QEMU."""
    why = "it runs under `userfault exec`; the lab boots kernels in it"
    return _program("qemu", _QEMU, why, "install qemu-system-x86")


def firecracker() -> Finding:
    """Firecracker."""
    why = "where it runs elsewhere (in a jail, another root), it need not be found here"
    return _program("firecracker", ("firecracker",), why, "install Firecracker 1.1 or newer")


def cloud_hypervisor() -> Finding:
    """Cloud Hypervisor."""
    why = "where it runs elsewhere, it need not be found here"
    names = ("cloud-hypervisor",)
    return _program("cloud-hypervisor", names, why, "install Cloud Hypervisor 53 or newer")


def compiler() -> Finding:
    """A C compiler, tried."""
    why = "the library that `userfault exec` loads into programs is compiled where it is used"
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found is not None:
            made = _run(found, "-xc", "-shared", "-o", os.devnull, os.devnull)
            if made is not None and not made.returncode:
                return ok("compiler", found, why)
    return missing("compiler", "none that works", why, "install gcc and the C library's headers")


def systemd() -> Finding:
    """Whether systemd runs this system."""
    why = "sockets that are there before the daemon, readiness, restarts (docs/serve.md)"
    if not os.path.isdir(_SYSTEMD):
        cure = "none is needed: the daemon opens its sockets itself"
        return degraded("systemd", f"no {_SYSTEMD}", why, cure)
    return ok("systemd", _says("systemctl", "--version").partition("\n")[0], why)


def extras() -> Finding:
    """Libraries that parts of this project take."""
    why = "metrics for Prometheus, stores in S3"
    wanted = {"prometheus_client": "metrics", "obstore": "remote"}
    lacking = [extra for name, extra in wanted.items() if importlib.util.find_spec(name) is None]
    if lacking:
        names = ",".join(lacking)
        return degraded("extras", f"not installed: {names}", why, f"pip install userfault[{names}]")
    return ok("extras", "metrics and remote", why)


def _program(name: str, names: tuple[str, ...], why: str, cure: str) -> Finding:
    """The first of these that is found and says its version."""
    for each in names:
        found = shutil.which(each)
        version = _says(found, "--version").partition("\n")[0] if found else ""
        if version:
            return ok(name, f"{found}: {version}", why)
    return Finding(name, State.MISSING, "not found", why, cure)


def _says(program: str, *arguments: str) -> str:
    ran = _run(program, *arguments)
    return ran.stdout.strip() if ran is not None and not ran.returncode else ""


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """None where it cannot be run, or does not end."""
    try:
        return subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TAKES_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
