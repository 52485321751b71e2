"""`userfault demo`: capture a live process, restore it lazily into each memory type, verify."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import msgspec
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from userfault.cli.demo.capture import Image, Mapping, capture
from userfault.cli.demo.client import Job, Outcome, Refused, digest
from userfault.cli.demo.order import touch_order
from userfault.cli.demo.picture import draw
from userfault.cli.demo.report import FILLS, Demo, Order, Run, Target, notes, table, to_json
from userfault.cli.shared import errors, interrupts, json_output
from userfault.cli.shared.children import python_child
from userfault.cli.shared.screen import Screen
from userfault.kernel.errors import Unavailable, UsageError, UserfaultError
from userfault.kernel.memtypes import BASE_PAGE, GIB, KIB, MIB, Memory, MemoryType, memory, round_up
from userfault.linux import libc
from userfault.linux.hugepool import PoolShare
from userfault.linux.memory import prepare
from userfault.linux.opening import open_userfaultfd
from userfault.snapshot.stores.newfile import NewFile, write_new
from userfault.uapi import mman

TOUCHES = 30_000  # pages touched one by one in each run, at most
_SIZES = {"K": KIB, "M": MIB, "G": GIB}
_DEFAULT = (
    "anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private", "hugetlb:1G", "guest_memfd"
)  # fmt: skip


def _memories(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[Memory, ...]:
    """The memories called `NAME` or `NAME:SIZE`, as `hugetlb:1G`; a usage error for others."""
    try:
        return tuple(_memory(value) for value in values)
    except UsageError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def _memory(value: str) -> Memory:
    name, _, size = value.partition(":")
    if not size:
        return memory(name)
    if not size[:-1].isdecimal() or size[-1].upper() not in _SIZES:
        raise UsageError(
            f"{value!r} is no memory", cause=f"{size!r} is no page size", cure="write 2M or 1G"
        )
    return memory(name, int(size[:-1]) * _SIZES[size[-1].upper()])


def _svg(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    if value.suffix.lower() != ".svg":
        raise click.BadParameter(
            f"{value} does not end in .svg: the picture is drawn as SVG alone"
            " (rsvg-convert or a browser turns it into PNG)",
            ctx,
            param,
        )
    if not os.access(value.absolute().parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"cannot write into {value.absolute().parent}", ctx, param)
    return value


@click.command()
@click.option(
    "--size",
    type=click.IntRange(8, 65536),
    default=256,
    show_default=True,
    metavar="MIB",
    help="How much memory of its own the captured process has.",
)
@click.option(
    "--memory",
    "memories",
    metavar="NAME[:SIZE]",
    multiple=True,
    default=_DEFAULT,
    callback=_memories,
    help="Memory type to restore into, as anon, hugetlb-private or hugetlb:1G; may be repeated."
    "  [default: all]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="userfault-demo.svg",
    show_default=True,
    callback=_svg,
    metavar="FILE.svg",
    help="Where the picture of the restores goes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option(
    "--keep",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="IMAGE",
    help="Keep the captured image, and what lies where in it (IMAGE.maps.json).",
)
def demo(
    size: int, memories: tuple[Memory, ...], output: Path, as_json: bool, keep: Path | None
) -> int:
    """Restore a live process lazily, and check every byte.

    A process that holds ordinary data is captured while it lives.  Its image is then restored into
    each memory type, in a fresh client process that touches the pages in the order in which it
    would by following its pointers: once with pages filled on demand alone, once with the rest
    filled in the background meanwhile.  Every byte is compared with the image at the end.
    """
    begun = time.monotonic()
    os.close(open_userfaultfd().fd)  # where there is none, say so before the work begins
    with _progress() as progress, tempfile.TemporaryFile(prefix="userfault-demo-") as image:
        target, mappings, order, found = _captured(size, image, keep, progress)
        runs = _runs(image.fileno(), target, memories, order, progress)
    report = Demo(
        kernel=os.uname().release,
        target=target,
        order=found,
        runs=runs,
        picture=str(output),
        image=str(keep or ""),
        seconds=time.monotonic() - begun,
    )
    write_new(output, draw(report, mappings).encode())
    _print(report, as_json)
    if report.failed:
        return errors.FAILED
    return 0 if report.verified else errors.LACKING


def _progress() -> Progress:
    """A bar on standard error, where that is a terminal; it vanishes at the end."""
    console = Screen(stderr=True)
    return Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _captured(
    size: int, image: BinaryIO, keep: Path | None, progress: Progress
) -> tuple[Target, list[Mapping], array[int], Order]:
    """Build the target, capture it into `image`, find the touch order."""
    clock = time.monotonic
    begun = clock()
    task = progress.add_task(f"building a process of {size} MiB", total=None)
    with python_child("userfault.cli.demo.target", str(size)) as child:
        assert child.stdout is not None
        if child.stdout.readline() != b"ready\n":
            raise UserfaultError(
                "the process to be captured did not get ready",
                cause=f"it ended with {child.wait()}: what it said is above",
                cure="ask for a smaller --size if memory is short",
            )
        built = clock()
        progress.update(task, description="capturing its memory", total=1)
        captured = capture(
            child.pid,
            image,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
        seconds = clock() - built
    progress.update(task, description="following its pointers", total=None)
    started = clock()
    with mmap.mmap(image.fileno(), captured.length, prot=mmap.PROT_READ) as data:
        order = touch_order(captured, data, TOUCHES)
        found_digest = digest(data)
    found = Order(len(order), clock() - started)
    progress.remove_task(task)
    if keep:
        _keep(image.fileno(), captured, keep)
    target = Target(
        mappings=len(captured.mappings),
        length=captured.length,
        stored=captured.stored * BASE_PAGE,
        pages=captured.length // BASE_PAGE,
        zero_pages=captured.zero,
        unreadable_pages=captured.unreadable,
        digest=found_digest,
        build_s=built - begun,
        capture_s=seconds,
    )
    return target, captured.mappings, order, found


def _keep(image: int, captured: Image, keep: Path) -> None:
    """Copy the image, holes and all, with its mappings beside it; what was there stays until then.

    Memory holds secrets: both are for their owner alone.
    """
    with NewFile(str(keep)) as copy:
        try:
            os.ftruncate(copy.fd, captured.length)
            _copy(image, copy.fd)
        except OSError as error:
            raise copy.failure(error) from None
        maps = msgspec.json.format(msgspec.json.encode(captured.mappings), indent=1)
        write_new(f"{keep}.maps.json", maps, 0o600)
        copy.commit()


def _copy(image: int, copy: int) -> None:
    """Copy what is no hole."""
    at = 0
    while (data := _data_at(image, at)) is not None:
        at, end = data
        os.lseek(copy, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(copy, image, at, end - at)


def _data_at(file: int, offset: int) -> tuple[int, int] | None:
    """The next run of data from `offset` on, None behind the last."""
    try:
        start = os.lseek(file, offset, os.SEEK_DATA)
    except OSError:
        return None
    return start, os.lseek(file, start, os.SEEK_HOLE)


def _runs(
    image: int,
    target: Target,
    memories: tuple[Memory, ...],
    order: array[int],
    progress: Progress,
) -> list[Run]:
    """Each memory twice: filled on demand, then with background fill."""
    runs: list[Run] = []
    task = progress.add_task("restoring", total=2 * len(memories))
    for chosen in memories:
        try:
            with _pool(chosen, target.length):
                for background in (False, True):
                    fill = FILLS[background]
                    progress.update(task, description=f"restoring into {chosen}, {fill}")
                    runs.append(_run(image, target, chosen, background, order))
                    progress.advance(task)
                    if runs[-1].refused:
                        break
        except Unavailable as error:
            refused = Refused(error.what, error.cause, error.cure)
            runs.append(Run(chosen, False, refused, target.digest))
    return runs


@contextlib.contextmanager
def _pool(chosen: Memory, length: int) -> Iterator[None]:
    """Huge pages for the runs, given back afterwards however they end: this process owns them.

    Their host memory is touched before: on a virtual machine the first touch of memory is up to 18
    times slower (measured), and that would be all one saw.
    """
    if chosen.type is not MemoryType.HUGETLB:
        yield
        return
    whole = round_up(length, chosen.page_size)
    share = None
    try:
        with interrupts.deferred():
            share = PoolShare(chosen.page_size, whole // chosen.page_size, grow=True)
        with contextlib.closing(prepare(chosen, whole)) as recipe:
            _warm(recipe.fd, recipe.flags, whole)
        yield
    finally:
        if share is not None:
            with interrupts.deferred():
                share.close()


def _warm(fd: int, flags: int, length: int) -> None:
    address = libc.mmap(0, length, mman.PROT_READ | mman.PROT_WRITE, flags, fd, 0)
    try:
        libc.madvise(address, length, mman.MADV_POPULATE_WRITE)
    finally:
        libc.munmap(address, length)


def _run(image: int, target: Target, chosen: Memory, background: bool, order: array[int]) -> Run:
    """One restore in a process of its own."""
    job = Job(image, target.length, chosen.name, chosen.page_size, background)
    with python_child(
        "userfault.cli.demo.client", msgspec.json.encode(job).decode(), pass_fds=[image]
    ) as child:
        said, _ = child.communicate(order.tobytes())
    if child.returncode:
        failure = f"the client ended with {child.returncode}: what it said is above"
        return Run(chosen, background, None, target.digest, failure)
    outcome = msgspec.json.decode(said, type=Outcome)
    return Run(chosen, background, outcome, target.digest)


def _print(report: Demo, as_json: bool) -> None:
    if as_json:
        json_output.whole(to_json(report))
        return
    console = Screen()
    target = report.target
    console.print(
        f"captured {target.length / MIB:.0f} MiB of a live process ({target.mappings} mappings,"
        f" {target.pages} pages, {target.zero_pages} of them zero) in {target.capture_s:.1f} s;"
        f" {report.order.pages} pages to touch, found by following pointers"
    )
    console.print()
    console.print(table(report))
    for note in notes(report):
        console.print(note, style="yellow")
    console.print()
    console.print(f"picture: {report.picture}", soft_wrap=True)
    console.print(f"took {report.seconds:.1f} s on Linux {report.kernel}")
