"""`userfault pack`: store an image of memory as a snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from userfault.api.cloud_hypervisor_sent import Sent
from userfault.cli.shared import json_output, progress, terminal
from userfault.cli.shared.sizes import told
from userfault.cli.store import order_file
from userfault.cli.store.places import Place, human, sibling, snapshot
from userfault.snapshot.inputs.criu_images import tasks
from userfault.snapshot.inputs.opening import Kind, is_dump, open_image_file
from userfault.snapshot.inputs.process import ProcessInput
from userfault.snapshot.inputs.protocol import PageInput
from userfault.snapshot.packing.criu_tree import CriuTreeInput
from userfault.snapshot.packing.pack import CHUNK_SIZE, LEVEL, Packed
from userfault.snapshot.packing.pack import pack as pack_pages

SCHEMA = "userfault.pack/1"

_EPILOG = """\b
Examples:
  userfault pack guest.mem /srv/memory/web
  userfault pack --pid 1234 s3://bucket/snapshots/web-1234
  userfault pack guest2.mem /srv/memory/web-2 --base web
  userfault pack criu-images/ ./store/redis --pid-of-image 1
  userfault pack --criu criu-images/ ./store/redis-tree
"""


@click.command(epilog=_EPILOG)
@click.argument("places", nargs=-1, required=True, metavar="[IMAGE] STORE/NAME")
@click.option("--pid", type=click.IntRange(min=1), help="Pack the memory of this live process.")
@click.option(
    "--cloud-hypervisor",
    "vmm",
    metavar="PATH",
    help="Listen there for the snapshot that a Cloud Hypervisor sends (send-migration, local=on).",
)
@click.option(
    "--running",
    is_flag=True,
    help="Do not stop the process meanwhile: pages may be from different moments.",
)
@click.option(
    "--missing-are-holes",
    is_flag=True,
    help="Pages that a userfaultfd of the process is yet to fill are zeros.  [default: refuse]",
)
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in Kind]),
    default=Kind.AUTO.value,
    show_default=True,
    help="What IMAGE is.",
)
@click.option(
    "--vmstate",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The state file of Firecracker that belongs to the memory file IMAGE.",
)
@click.option(
    "--pid-of-image", type=click.IntRange(min=1), help="Which task of a CRIU dump; default: each."
)
@click.option(
    "--criu",
    "tree",
    is_flag=True,
    help="IMAGE is a CRIU dump: of all its tasks what a lazy restore leaves to a pager, as one"
    " snapshot for userfault serve --criu.",
)
@click.option(
    "--holes-are-base",
    is_flag=True,
    help="Holes of IMAGE mean: as in the base (diff snapshots of Firecracker).",
)
@click.option("--base", metavar="NAME", help="Store what differs from this snapshot of the store.")
@click.option(
    "--level",
    type=click.IntRange(1, 22),
    default=LEVEL,
    show_default=True,
    help="Level of zstd: higher is smaller and slower.",
)
@click.option(
    "--chunk-size",
    metavar="SIZE",
    callback=told,
    default=f"{CHUNK_SIZE >> 10}K",
    show_default=True,
    help="Bytes compressed together, a multiple of 4K.",
)
@click.option(
    "--dedupe-memory",
    metavar="SIZE",
    callback=told,
    help="Bound of the memory that finding equal pages takes.  [default: 24 bytes a page]",
)
@click.option(
    "--order",
    callback=order_file.pages,
    metavar="FILE",
    help="Pages that a restore touches first, in that order: a working set, the snapshot STORE/NAME"
    " that has one, or numbers and ranges a-b, one a line.",
)
@click.option(
    "--into-existing",
    is_flag=True,
    help="Make the store in a folder that has other things in it, too.  [default: refuse]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def pack(
    ctx: click.Context,
    /,
    places: tuple[str, ...],
    pid: int | None,
    running: bool,
    tree: bool,
    vmm: str | None,
    base: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Store an image of memory as the snapshot NAME of a store.

    IMAGE is a raw memory file (of QEMU, of Firecracker, sparse or not), a folder with a CRIU dump,
    with Firecracker's two files, or with a snapshot of Cloud Hypervisor.  With --pid it is the
    memory of a live process, which is stopped while its pages are copied and runs on while they
    are packed.  STORE is a folder or s3://BUCKET/PREFIX (gs://, az://).  Pages that are zero, one
    repeated word, or in the store already take no room.
    """
    image, place = _image_and_place(ctx, places, alone=pid is not None or vmm is not None)
    existing = options["into_existing"]
    under = None if base is None else _base(ctx, base, place)
    for name in ("running", "missing_are_holes"):
        if (running if name == "running" else options[name]) and pid is None:
            raise click.UsageError(f"--{name.replace('_', '-')} belongs to --pid", ctx)
    settings = {
        "base": under,
        "level": options["level"],
        "chunk_size": options["chunk_size"],
        "dedupe_memory": options["dedupe_memory"],
        "order": options["order"],
    }
    if pid is not None:
        with contextlib.closing(
            ProcessInput(
                pid,
                running=running,
                registers=True,
                aside=True,
                missing_are_holes=options["missing_are_holes"],
            )
        ) as process:
            packed = _packed(place, process, settings, into_existing=existing)
            packed = msgspec.structs.replace(packed, stopped_s=process.stopped_s)
            _show(packed, place, process.warnings, as_json)
        return
    if vmm is not None:
        with Sent(vmm) as sent:
            packed = _packed(place, sent.pages, settings, into_existing=existing)
        _show(packed, place, (), as_json)
        return
    assert image is not None
    if tree:
        with contextlib.closing(CriuTreeInput(image)) as pages:
            packed = _packed(place, pages, settings, into_existing=existing)
            _show(packed, place, pages.warnings, as_json)
        return
    for which, task in _tasks(image, place, options):
        with contextlib.closing(
            open_image_file(
                image,
                kind=Kind(options["kind"]),
                vmstate=options["vmstate"],
                task=task,
                diff=options["holes_are_base"],
            )
        ) as pages:
            _show(
                _packed(which, pages, settings, into_existing=existing),
                which,
                pages.warnings,
                as_json,
            )


def _image_and_place(
    ctx: click.Context, places: tuple[str, ...], *, alone: bool
) -> tuple[str | None, Place]:
    wanted = 1 if alone else 2
    if len(places) != wanted:
        what = (
            "STORE/NAME alone, beside --pid or --cloud-hypervisor"
            if wanted == 1
            else "IMAGE and STORE/NAME, or --pid"
        )
        raise click.UsageError(f"pack takes {what}", ctx)
    return (places[0] if wanted == 2 else None), snapshot(ctx, None, places[-1])


def _base(ctx: click.Context, base: str, place: Place) -> str:
    found = sibling(ctx, base, place)
    if found.store.rstrip("/") != place.store.rstrip("/"):
        raise click.UsageError(
            f"the base {base} is in another store than {place.store}: a layer and its base are"
            " in one store",
            ctx,
        )
    return found.name


def _tasks(image: str, place: Place, options: dict[str, Any]) -> Iterator[tuple[Place, int | None]]:
    """Which snapshots to make: of a CRIU dump with several tasks, one of each."""
    task = options["pid_of_image"]
    dump = options["kind"] == Kind.CRIU.value or (
        options["kind"] == Kind.AUTO.value and is_dump(image)
    )
    found = tasks(image) if dump and task is None else []
    if len(found) < 2:
        yield place, task
        return
    for each in found:
        yield Place(place.store, f"{place.name}-{each}"), each


def _packed(
    place: Place, pages: PageInput, settings: dict[str, Any], *, into_existing: bool
) -> Packed:
    objects = place.open(into_existing=into_existing)
    with progress.bar(f"packing {place.name}") as show:
        return pack_pages(objects, place.name, pages, progress=show, **settings)


def _show(packed: Packed, place: Place, warnings: Sequence[str], as_json: bool) -> None:
    for warning in warnings:
        terminal.say(f"userfault: warning: {warning}", err=True)
    if as_json:
        json_output.show(SCHEMA, packed)
        return
    kinds = ("zero", "hole", "word", "parent", "duplicate", "shared", "stored")
    counts = ", ".join(f"{getattr(packed, kind)} {kind}" for kind in kinds if getattr(packed, kind))
    stored = packed.chunk_bytes + packed.manifest_bytes
    terminal.say(
        f"{place.store}/{place.name}: {human(packed.length)} in {packed.pages} pages ({counts});"
        f" {human(stored)} written, {packed.chunks} chunks"
        + (f"; stopped for {packed.stopped_s * 1000:.0f} ms" if packed.stopped_s else "")
    )
