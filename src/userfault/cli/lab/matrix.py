"""`userfault lab matrix`: results of kernels, and the documents that are made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from userfault.check.statements import load as load_statements
from userfault.check.words.statement import Statement
from userfault.cli.lab.names import CACHE, find
from userfault.cli.shared import terminal
from userfault.kernel.errors import UsageError
from userfault.lab import collect
from userfault.lab.changes import kernel_changes
from userfault.lab.matrix import support_matrix
from userfault.lab.reproduce import reproducers
from userfault.lab.results import HERE, Results, encode, load, read_reports, with_report
from userfault.lab.store import Store
from userfault.model.profiles import PROFILES
from userfault.snapshot.stores.newfile import write_new

_MODEL = "model"


@click.command()
@CACHE
@click.argument("kernels", metavar="[KERNEL]...", nargs=-1)
@click.option(
    "--docs",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default="docs",
    help="Where the documents are, and the results in results/ (default: docs).",
)
@click.option(
    "--report",
    "reports",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="Take the statements from a report of `check --json` or `lab run --json`.",
)
def matrix(
    cache: Path | None, kernels: tuple[str, ...], docs: Path, reports: tuple[Path, ...]
) -> int:
    """Run everything on each KERNEL, and make the documents of all results anew.

    A KERNEL is `here`, `model` (under each profile), or one of the lab.  Without any, the documents
    are made of the results that are there.
    """
    statements = load_statements()
    directory = docs / "results"
    directory.mkdir(exist_ok=True)
    for results in _collected(kernels, statements, Store(cache)):
        _keep(directory, results)
    for path in reports:
        for kernel, cases in read_reports(path.read_bytes().splitlines()):
            _keep(directory, with_report(_named(load(directory), kernel), cases))
    for name, text in documents(statements, load(directory)).items():
        _write(docs / name, text.encode())
        terminal.say(docs / name)
    return 0


def documents(statements: list[Statement], results: list[Results]) -> dict[str, str]:
    """Every document that is made of results, by its name."""
    return {
        "support-matrix.md": support_matrix(statements, results),
        "kernel-changes.md": kernel_changes(statements, reproducers().values(), results),
    }


def _collected(
    names: Iterable[str], statements: list[Statement], store: Store
) -> Iterator[Results]:
    def tell(what: str) -> None:
        terminal.say(what, err=True)

    for name in names:
        if name == HERE:
            yield collect.collect_here(statements, tell)
        elif name == _MODEL:
            for profile in PROFILES:
                yield collect.collect_model(profile, statements, tell)
        else:
            yield collect.collect_guest(find(store, name), statements, tell)


def _named(known: list[Results], name: str) -> Results:
    """The results of the kernel that a report calls so."""
    # Of the machine's own build the results keep no more than the release.
    found = next(
        (one for one in known if name == one.kernel or name.startswith(f"{one.kernel}-")), None
    )
    if found is None:
        raise UsageError(
            f"there are no results of {name}",
            cause=f"there are those of {', '.join(results.kernel for results in known)}",
            cure="make them first: `userfault lab matrix KERNEL`",
        )
    return found


def _keep(directory: Path, results: Results) -> None:
    _write(directory / collect.file_name(results), encode(results))


def _write(path: Path, data: bytes) -> None:
    """Whoever interrupts us leaves the old file, or the new one."""
    write_new(path, data)
