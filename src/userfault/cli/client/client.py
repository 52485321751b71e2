"""`userfault client`: another program's client of a page-fault handler, posed as."""

from __future__ import annotations

import os

import click
import msgspec

from userfault.cli.client import hostile as playing
from userfault.cli.client import telling
from userfault.cli.client.crew import run
from userfault.cli.client.native import Native
from userfault.cli.shared import progress, terminal
from userfault.client.cloud_hypervisor import FORMS as CH_FORMS
from userfault.client.cloud_hypervisor import CloudHypervisor
from userfault.client.criu import Criu
from userfault.client.firecracker import FORMS, Firecracker
from userfault.client.hostile import VARIANTS
from userfault.client.orders import PATTERNS
from userfault.client.touching import MOST_THREADS, Walk
from userfault.kernel.errors import UsageError
from userfault.kernel.memtypes import GIB, KIB, MIB

_EXAMPLE = "Example: userfault client --firecracker /run/vm.sock --image /srv/vm/memory --balloon 5"
_UNITS = {"k": KIB, "m": MIB, "g": GIB}
_PERCENT = click.IntRange(0, 100)


def _bytes(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """The callback of a size: 4k, 2m, or bytes."""
    del ctx
    text = value.lower().removesuffix("ib").removesuffix("b") or value
    unit = _UNITS.get(text[-1], 1)
    digits = text[:-1] if unit > 1 else text
    if not digits.isdecimal():
        raise click.BadParameter(f"{value!r} is no size: write 4k, 2m or bytes", param=param)
    return int(digits) * unit


def _regions(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """The callback of how memory is cut: a number, or sizes."""
    if value.isdecimal() and int(value) < 4096:
        return (int(value),)
    return tuple(_bytes(ctx, param, each) for each in value.split(","))


@click.command(epilog=_EXAMPLE)
@click.option("--firecracker", metavar="SOCKET", help="Restore as Firecracker does, by that.")
@click.option("--cloud-hypervisor", metavar="SOCKET",
              help="Listen there as Cloud Hypervisor, for a daemon that restores.")  # fmt: skip
@click.option("--criu", metavar="WORKDIR", help="Restore as criu restore --lazy-pages does, there.")
@click.option("--images", metavar="DIR", help="CRIU's images, if not in WORKDIR.")
@click.option("--native", metavar="SOCKET", help="Be userfault.lazy(), by that (serve --native).")
@click.option("--image", metavar="FILE", help="What every byte has to be.")
@click.option("--pattern", type=click.Choice(list(PATTERNS)), default="random", show_default=True,
              help="In which order pages are touched.")  # fmt: skip
@click.option("--stride", type=click.IntRange(1), default=8, show_default=True, help="Its step.")
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), default=1, show_default=True,
              help="Each touches all pages.")  # fmt: skip
@click.option("--pages", type=click.IntRange(0), default=0, help="Touch so many (default: all).")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True,
              help="Touch all of them so often.")  # fmt: skip
@click.option("--regions", metavar="N|SIZE,SIZE...", default="1", show_default=True,
              callback=_regions, help="So many, no two alike; or these.")  # fmt: skip
@click.option("--page-size", metavar="SIZE", default="4k", show_default=True, callback=_bytes,
              help="4k, or 2m: of the hugetlb pool.")  # fmt: skip
@click.option("--transparent", is_flag=True, help="Memory that is advised for huge pages.")
@click.option("--form", type=click.Choice(list(dict.fromkeys((*FORMS, *CH_FORMS)))),
              default="newest", show_default=True,
              help="Which release sends the message.")  # fmt: skip
@click.option("--split", metavar="BYTES", type=click.IntRange(0), default=0,
              help="Send so many bytes of it at once.")  # fmt: skip
@click.option("--hotplug", metavar="SIZE", default="0", callback=_bytes,
              help="So much at the end is plugged in last.")  # fmt: skip
@click.option("--balloon", metavar="PERCENT", type=_PERCENT, default=0,
              help="Give back pages that were seen, and demand zeros.")  # fmt: skip
@click.option("--flood", metavar="N", type=click.IntRange(0), default=0,
              help="At the end, give back N ranges without a pause.")  # fmt: skip
@click.option("--write", metavar="PERCENT", type=_PERCENT, default=0,
              help="Write to pages, and demand that it stays.")  # fmt: skip
@click.option("--kernel", metavar="PERCENT", type=_PERCENT, default=0,
              help="Let system calls touch pages.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Chance.")
@click.option("--hostile", metavar="VARIANT", type=click.Choice([*VARIANTS, "all"]),
              help="Be one that no right client is (docs/client.md).")  # fmt: skip
@click.option("--wait", metavar="SECONDS", type=click.FloatRange(0, min_open=True), default=15.0,
              show_default=True, help="What the handler has to react to it.")  # fmt: skip
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0, min_open=True),
              default=30.0, show_default=True, help="A page that takes longer hangs.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def client(
    context: click.Context,
    firecracker: str | None,
    cloud_hypervisor: str | None,
    criu: str | None,
    images: str | None,
    native: str | None,
    image: str | None,
    pattern: str,
    stride: int,
    threads: int,
    pages: int,
    rounds: int,
    regions: tuple[int, ...],
    page_size: int,
    transparent: bool,
    form: str,
    split: int,
    hotplug: int,
    balloon: int,
    flood: int,
    write: int,
    kernel: int,
    seed: int,
    hostile: str | None,
    wait: float,
    timeout: float,
    as_json: bool,
) -> int:
    """Pose as a client of a page-fault handler, touch memory, and check every byte of it.

    Exit code 0: everything was right; 1: wrong bytes, or words where the handler has to be silent;
    6: it refused the client, or ended it; 7: a page never came; 8: a page was given up (SIGBUS).
    """
    given = {
        "firecracker": firecracker,
        "cloud-hypervisor": cloud_hypervisor,
        "criu": criu,
        "native": native,
    }
    protocol, socket = _one_of(given)
    if page_size not in (4 * KIB, 2 * MIB):
        raise UsageError(
            f"pages of {page_size} bytes",
            cause="no release has guest memory of them",
            cure="write --page-size 4k or 2m",
        )
    _only(context, protocol, form)
    walk = Walk(
        pattern=pattern,
        threads=threads,
        pages=pages,
        stride=stride,
        rounds=rounds,
        balloon=balloon,
        write=write,
        kernel=kernel,
        flood=flood,
        seed=seed,
    )
    if protocol == "criu":
        tree = Criu(socket, os.path.abspath(images or socket), walk)
        return _run("criu", "userfault.client.criu", tree, seed, timeout, as_json)
    if image is None:
        raise UsageError(
            f"--{protocol} without --image",
            cause="what is found has to be compared with something",
            cure="name the memory file that the handler shows",
        )
    image = os.path.abspath(image)
    if protocol == "native":
        memory = "anon" if page_size == 4 * KIB else "hugetlb-private"
        mine = Native(socket, image, walk, memory, page_size)
        return _run("native", "userfault.cli.client.native", mine, seed, timeout, as_json)
    if protocol == "cloud-hypervisor":
        vmm = CloudHypervisor(socket, image, walk, form, timeout)
        terminal.say(f"waiting for a restorer at {socket}", err=True)
        module = "userfault.client.cloud_hypervisor"
        return _run(protocol, module, vmm, seed, timeout, as_json)
    asked = Firecracker(
        socket=socket,
        image=image,
        walk=walk,
        page_size=page_size,
        regions=regions,
        form=form,
        piece=split,
        transparent=transparent,
        hotplug=hotplug,
    )
    if hostile is not None:
        with progress.bar("hostile clients") as report:
            played = playing.play(asked, hostile, wait, timeout, report)
        return telling.hostile(played, as_json=as_json)
    return _run(protocol, "userfault.client.firecracker", asked, seed, timeout, as_json)


# Options that mean something for some protocols alone.
_FORMS = {
    "firecracker": FORMS,
    "cloud-hypervisor": CH_FORMS,
    "native": ("newest",),
    "criu": ("newest",),
}
_OF_FIRECRACKER = ("regions", "transparent", "split", "hotplug", "hostile", "wait")
_FOR = {
    **dict.fromkeys(_OF_FIRECRACKER, ("firecracker",)),
    "page_size": ("firecracker", "native"),
    "flood": ("firecracker", "native", "criu"),
    "image": ("firecracker", "cloud-hypervisor", "native"),
    "images": ("criu",),
    "pages": ("firecracker", "cloud-hypervisor", "native"),
}


def _one_of(given: dict[str, str | None]) -> tuple[str, str]:
    """The protocol that was named, and its socket."""
    named = [(name, path) for name, path in given.items() if path is not None]
    if len(named) != 1:
        raise UsageError(
            "userfault client",
            cause=f"{'several protocols were' if named else 'no protocol was'} named",
            cure="name one socket: " + ", ".join(f"--{name}" for name in given),
        )
    return named[0][0], os.path.abspath(named[0][1])


def _only(context: click.Context, protocol: str, form: str) -> None:
    """Raise UsageError for an option that means nothing for this protocol."""
    forms = _FORMS.get(protocol, ("newest",))
    if form not in forms:
        raise UsageError(
            f"--form {form} with --{protocol}",
            cause=f"its forms are {', '.join(forms)}",
            cure="name one of them",
        )
    for name, protocols in _FOR.items():
        source = context.get_parameter_source(name)
        if source is click.core.ParameterSource.COMMANDLINE and protocol not in protocols:
            raise UsageError(
                f"--{name.replace('_', '-')} with --{protocol}",
                cause="it is said to handlers of " + ", ".join(protocols),
                cure="leave it out",
            )


def _run(
    protocol: str, module: str, asked: msgspec.Struct, seed: int, timeout: float, as_json: bool
) -> int:
    with progress.bar("touching") as report:
        outcome = run(module, asked, timeout, report)
    return telling.outcome(protocol, outcome, seed, as_json=as_json)
