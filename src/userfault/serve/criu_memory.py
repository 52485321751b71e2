"""Where the memory of a task lies: in the images of a dump, or in a snapshot of a whole tree."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from userfault.kernel.errors import UsageError
from userfault.pager.core.segment import Segment
from userfault.serve.images import Images
from userfault.serve.peers import RefusedError
from userfault.serve.records import Door
from userfault.snapshot.format.page_maps import PageMaps, name_of
from userfault.snapshot.inputs.criu_images import tasks
from userfault.snapshot.inputs.criu_lazy import LazyTask
from userfault.snapshot.inputs.protocol import PAGE, Region
from userfault.snapshot.serving.either import open_either
from userfault.source.pages import gone
from userfault.source.spec import FileSpec, PagesSpec, Spec, StoreSpec

_MOST_RUNS = 1 << 14  # of pages, each of which is looked up, and recorded


class Memory(msgspec.Struct):
    """Of one task: which pages of the source it has where.  `fd`: the source's, the caller's."""

    spec: Spec
    fd: int
    segments: tuple[Segment, ...]


Tree = dict[int, tuple[Segment, ...]]
_decoder = msgspec.msgpack.Decoder(Tree)


def memory_of(pid: int, door: Door, images: Images) -> Memory | None:
    """That of task `pid`; None where all of it was restored by CRIU.

    Raises RefusedError where there is none, FormatError for images that are damaged, OSError.
    """
    if door.dump:
        return _in_dump(pid, door.dump)
    tree = images.tree(door.image)
    held = _decoder.decode(os.pread(tree, os.fstat(tree).st_size, 0))
    if pid not in held:
        return None
    spec, fd = images.source(door.image)
    if isinstance(spec, PagesSpec):
        if gone(fd):
            os.close(fd)
            raise RefusedError(
                f"task {pid}, whose memory {spec.name} has had",
                cause="that connection has ended, with an earlier restore perhaps",
                cure="start the daemon again, with a page server that waits",
            )
        spec = msgspec.structs.replace(spec, task=pid)
    return Memory(spec, fd, held[pid])


def tree_of(spec: Spec) -> int:
    """A memfd that says where in a snapshot each task's memory lies.

    Raises UsageError for what is no such snapshot, StoreError and its like, OSError.
    """
    if not isinstance(spec, StoreSpec):
        raise _no_tree("a file")
    image = open_either(spec.url, spec.second, spec.name)
    if image.digest != spec.digest:
        raise UsageError(
            f"the snapshot {spec.name!r} was replaced just now",
            cause="somebody packs another one under this name",
            cure="start the daemon again",
        )
    return kept(_told(image.name, image.regions))


def kept(tree: Tree) -> int:
    """The same of a tree that is known."""
    made = os.memfd_create("userfault-tree", os.MFD_CLOEXEC)
    with open(made, "wb", closefd=False) as file:
        file.write(msgspec.msgpack.encode(tree))
    return made


def _no_tree(what: str) -> UsageError:
    return UsageError(
        f"{what} is of no tree of processes",
        cause="no region of it is the memory of a task that CRIU restores lazily",
        cure="pack the dump with userfault pack --criu, or name the folder of images",
    )


def _told(snapshot: str, regions: Iterable[Region]) -> Tree:
    maps = PageMaps(regions)
    tree: Tree = {}
    for name in maps:
        lazy = [each for each in maps.regions(name) if each.name == name_of(name, lazy=True)]
        if name.isdecimal() and lazy:
            tree[int(name)] = tuple(
                Segment(each.start, each.start + each.length, each.offset // PAGE) for each in lazy
            )
    if not tree:
        raise _no_tree(f"the snapshot {snapshot!r}")
    return tree


def _in_dump(pid: int, folder: str) -> Memory | None:
    if pid not in tasks(folder):
        raise RefusedError(
            f"task {pid}, which is not in {folder}",
            cause="CRIU restores from other images",
            cure="name the same folder for both: --criu WORKDIR=IMAGES",
        )
    with LazyTask(folder, pid) as task:
        if not task.runs:
            return None
        if task.one_file < 0 or len(task.runs) > _MOST_RUNS:
            parents = task.one_file < 0
            raise RefusedError(
                f"task {pid} in {folder} cannot be served from these files",
                cause="its pages are in several dumps (--prev-images-dir)"
                if parents
                else f"its pages are in {len(task.runs)} places",
                cure="pack it: userfault pack --criu IMAGES STORE/NAME, and name that",
            )
        segments = tuple(
            Segment(run.address, run.address + run.pages * PAGE, run.position) for run in task.runs
        )
        held = os.fstat(task.one_file)
        length = held.st_size // PAGE * PAGE
        spec = FileSpec(length, 0, held.st_size, held.st_mtime_ns, f"pages of task {pid}")
        return Memory(spec, os.dup(task.one_file), segments)
