"""The mapping of `lazy()`, before anything of it is registered."""

from __future__ import annotations

import os

from userfault.api import sharing
from userfault.api.memory import LazyMemory
from userfault.api.options import Options
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import Memory, MemoryType, round_up
from userfault.linux import libc
from userfault.linux.memory import FileBacking, Recipe, mapped
from userfault.linux.refused import calling
from userfault.pager.drivers.shared.asking import Grant
from userfault.source.spec import FileSpec, Resolved
from userfault.uapi import mman


def map_it(options: Options, resolved: Resolved, copy: Grant | None) -> tuple[Recipe, LazyMemory]:
    """Memory for `resolved`: a `mmap.mmap` of exactly the source's length (the kernel maps whole
    pages).  Raises UsageError for prepared memory that is none, OSError."""
    length = resolved.spec.length
    protection = mman.PROT_READ | (mman.PROT_WRITE if options.writable else 0)

    def made_of(recipe: Recipe) -> LazyMemory:
        with calling("mmap"):
            made = LazyMemory(recipe.fd, length, flags=recipe.flags, prot=protection)
        with libc.Pinned(made) as pinned:
            made.address = pinned.address
        made.memory = recipe.memory
        made.page_size = recipe.memory.page_size
        return made

    if copy is not None:
        backing = FileBacking(os.dup(copy.copy), length)
        whole = round_up(length, sharing.MEMORY.page_size)
        recipe = Recipe(sharing.MEMORY, whole, mman.MAP_PRIVATE, backing)
        return recipe, made_of(recipe)
    if options.prepared:
        recipe = _prepared(options.memory, resolved)
        return recipe, made_of(recipe)
    return mapped(
        options.memory, length, made_of, grow_pool=options.grow_pool, name="userfault-memory"
    )


def _prepared(memory: Memory, resolved: Resolved) -> Recipe:
    """Memory that is the source's own file."""
    spec = resolved.spec
    huge = memory.type is MemoryType.HUGETLB
    if (
        not isinstance(spec, FileSpec)
        or spec.offset
        or not (huge or memory.type is MemoryType.SHMEM)
        or (huge and not (memory.shared and _is_of_huge_pages(resolved.fd, memory.page_size)))
    ):
        raise UsageError(
            "prepared memory",
            cause="only a memfd, from its first byte on, can be its own memory",
            cure='pass the memfd as source with memory="shmem" (or shmem-private); one of huge'
            ' pages with memory="hugetlb" and their page_size',
        )
    flags = mman.MAP_SHARED if memory.shared else mman.MAP_PRIVATE
    whole = round_up(spec.length, memory.page_size)
    return Recipe(memory, whole, flags, FileBacking(os.dup(resolved.fd), whole))


def _is_of_huge_pages(fd: int, size: int) -> bool:
    """Whether it is a file of huge pages of this size: st_blksize is that of its pages."""
    return os.fstat(fd).st_blksize == size
