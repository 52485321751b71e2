"""Which steps make which call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from userfault.check.live import syscalls as nr
from userfault.check.live.steps import files, looks, memory, processes
from userfault.check.live.steps.requests import Place, Steps, one, system_call
from userfault.kernel import calls
from userfault.kernel.errors import Unavailable


def steps(call: calls.Call, place: Place) -> Steps:
    """The steps of a call."""
    number = _PLAIN.get(type(call))
    if number is not None:
        return one(system_call(number, *msgspec.structs.astuple(call)))
    return _BY_TYPE[type(call)](call, place)


def looking(call: calls.Call) -> Steps:
    """The steps of a call that looks, made by the control thread."""
    return _LOOKS[type(call)](call)


# Calls whose fields are the arguments of the system call, in its order.
_PLAIN: dict[type, int] = {
    calls.Mmap: nr.MMAP,
    calls.Munmap: nr.MUNMAP,
    calls.Mremap: nr.MREMAP,
    calls.Mprotect: nr.MPROTECT,
    calls.Madvise: nr.MADVISE,
    calls.Mlock: nr.MLOCK,
    calls.Munlock: nr.MUNLOCK,
    calls.Close: nr.CLOSE,
    calls.Dup: nr.DUP,
    calls.Ftruncate: nr.FTRUNCATE,
    calls.Fallocate: nr.FALLOCATE,
    calls.ReadInto: nr.READ,
    calls.WriteFrom: nr.WRITE,
    calls.Lseek: nr.LSEEK,
    calls.Fcntl: nr.FCNTL,
    calls.Userfaultfd: nr.USERFAULTFD,
    calls.Shmat: nr.SHMAT,
    calls.Shmdt: nr.SHMDT,
    calls.Exit: nr.EXIT_GROUP,
}


def _no_guest(call: calls.Call, place: Place) -> Steps:
    del place
    raise Unavailable(
        f"no guest runs on this kernel that could do {type(call).__name__}",
        cause="it would need a virtual CPU, and code for it",
        cure="ask the model: `userfault check --model`",
    )


_BY_TYPE: dict[type, Callable[[Any, Place], Steps]] = {
    calls.Read: memory.read,
    calls.Write: memory.write,
    calls.Mincore: memory.mincore,
    calls.ProcessVmReadv: memory.process_vm_readv,
    calls.PagemapScan: memory.pagemap_scan,
    calls.Shmget: memory.shmget,
    calls.ShmRemove: memory.shm_remove,
    calls.Open: files.open_,
    calls.Reopen: files.reopen,
    calls.MemfdCreate: files.memfd_create,
    calls.Pipe: files.pipe,
    calls.Fstat: files.fstat,
    calls.Pread: files.pread,
    calls.Pwrite: files.pwrite,
    calls.WriteFd: files.write_fd,
    calls.ReadFd: files.read_fd,
    calls.Poll: files.poll,
    calls.Ioctl: files.ioctl,
    calls.Fork: processes.fork,
    calls.Wait: processes.wait,
    calls.Signal: processes.signal,
    calls.DropCapability: processes.drop_capability,
    calls.Sysctl: processes.sysctl,
    calls.GuestRead: _no_guest,
    calls.GuestWrite: _no_guest,
    calls.GuestConvert: _no_guest,
    calls.KvmRead: _no_guest,
}

_LOOKS: dict[type, Callable[[Any], Steps]] = {
    calls.Pagemap: looks.pagemap,
    calls.Survey: looks.survey,
    calls.Smaps: looks.smaps,
    calls.Fdinfo: looks.fdinfo,
    calls.Pread: looks.content,
    calls.Fstat: looks.size,
}
