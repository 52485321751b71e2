"""The model of this kernel: its profile, and its configuration as found."""

from __future__ import annotations

import contextlib
import errno

from userfault.check.differential.pair import ModelFactory
from userfault.check.live.kernel import live_kernel
from userfault.check.run import KernelFactory
from userfault.check.words.trace import errno_name
from userfault.kernel import calls
from userfault.kernel.errors import Unavailable
from userfault.model.faces.calls import ModelCalls
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.memtypes.shmem import SHMEM
from userfault.model.profiles import PROFILES, Config, Profile
from userfault.model.tasks.sched import Scheduler
from userfault.uapi import pagemap as pm
from userfault.uapi import userfaultfd as abi

_PAGE = calls.place(0)
_SOFT_DIRTY = calls.PagemapScan(
    _PAGE,
    _PAGE + calls.PAGE,
    category_mask=pm.PAGE_IS_SOFT_DIRTY,
    return_mask=pm.PAGE_IS_SOFT_DIRTY,
)
_WITH_FORK = abi.uffdio_api.struct.pack(abi.UFFD_API, abi.UFFD_FEATURE_EVENT_FORK, 0)


def profile_of(release: tuple[int, int]) -> Profile:
    """The profile of a release: its own, or that of the latest one before it.

    Raises Unavailable for a kernel older than any profile.
    """
    known = [p for p in PROFILES.values() if p.release <= release and p.name != "next"]
    if not known:
        raise Unavailable(
            "cannot run here: the model has no profile of this kernel",
            cause=f"it is {release[0]}.{release[1]}; profiles are {', '.join(PROFILES)}",
            cure="run the statements alone: `userfault check`",
        )
    return max(known, key=lambda profile: profile.release)


def configuration(live: KernelFactory = live_kernel) -> Config:
    """What the builder and the administrator of a kernel chose."""
    with contextlib.closing(live()) as kernel:
        process = kernel.process()
        task = process.tasks[0]
        failure = task.call(calls.Sysctl("vm/memory_failure_recovery")).result()
        unprivileged = task.call(calls.Sysctl("vm/unprivileged_userfaultfd")).result()
        opened = task.call(calls.Userfaultfd(0)).result()
        forks = task.call(calls.Ioctl(opened.value, abi.UFFDIO_API, _WITH_FORK)).result()
        kvm = task.call(calls.Open(calls.File.KVM, 2)).result()
        task.call(calls.Mmap(_PAGE, calls.PAGE)).result()
        task.call(calls.Write(_PAGE, b"w")).result()
        dirty = task.call(_SOFT_DIRTY).result()
    if opened.errno or forks.errno:
        raise Unavailable(
            "cannot run here: programs need every feature of userfaultfd",
            cause=f"userfaultfd(2) or EVENT_FORK: {errno_name(opened.errno or forks.errno)}",
            cure="run as root",
        )
    return Config(
        memory_failure=failure.errno != errno.ENOENT,
        soft_dirty=bool(dirty.value),  # a kernel without PAGEMAP_SCAN does not show it
        kvm=kvm.ok,
        unprivileged_userfaultfd=unprivileged.value,
    )


def kernels(
    live: KernelFactory = live_kernel, memfd: MemoryOps | None = None
) -> tuple[KernelFactory, ModelFactory]:
    """A real kernel, and the model of it.  Raises Unavailable where they cannot be had.

    `memfd`: the memory type that files of memfd_create(2) are of there, where that is not shmem.
    """
    with contextlib.closing(live()) as kernel:
        profile = profile_of(kernel.release)
    config = configuration(live)
    kind = memfd or SHMEM

    def model(scheduler: Scheduler) -> ModelCalls:
        return ModelCalls(profile, config, scheduler=scheduler, types=[kind], memfd=kind.name)

    return live, model
