"""`python -m tests.stress [--kills N] [--seconds S] [--seed S] [--memory anon,...] [--json]`.

`--plants`: plant mistakes instead; `--every-call N`: kill at every Nth system call.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as pytest has it

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stress import every_call, limits, plants, refused_calls
from stress.run import Options, Result, pools, run
from stress.standstill import Standstill
from userfault.kernel.errors import UserfaultError


def main() -> int:
    """0: nothing wrong, nobody hung; 1: something was; 2: it could not run; 130: Ctrl-C."""
    asked = _parser().parse_args()
    options = Options(
        kills=asked.kills if asked.kills is not None else 0 if asked.seconds else 1000,
        seconds=asked.seconds,
        seed=asked.seed,
        memory=tuple(asked.memory.split(",")),
        threads=asked.threads,
        hang_s=asked.hang,
        directory=asked.directory,
    )
    signal.signal(signal.SIGTERM, _as_interrupt)
    console = Console(stderr=True)
    other = _instead(asked)
    if other is not None:
        return other(console)
    try:
        with pools(options), _bar(console, options) as show:
            result = run(options, show)
    except UserfaultError as error:
        console.print(f"it cannot run: {error}")
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; nothing is left behind")
        return 130
    if asked.json:
        print(msgspec.json.encode(result).decode())
    else:
        _print(result)
    return 0 if result.good else 1


def _instead(asked: argparse.Namespace) -> Callable[[Console], int] | None:
    """What is asked for in place of kills at random."""
    if asked.every_call:
        return lambda console: _every_call(console, asked.every_call)
    if asked.refuse_calls:
        return lambda console: _refuse_calls(console, asked.refuse_calls)
    if asked.plants:
        return lambda console: _plants(console, tuple(asked.memory.split(",")))
    return _limits if asked.limits else None


def _every_call(console: Console, every: int) -> int:
    bad = 0
    for role, before in every_call.CASES:
        with console.status(role) as status:
            outcome = every_call.run(
                role,
                before,
                every=every,
                progress=lambda now: status.update(
                    f"{now.role}: killed at {now.stops} stops, {len(now.bad)} went wrong"
                ),
            )
        after = f" after the {before}'s death" if before else ""
        print(f"{role}{after}: killed at {outcome.stops} stops, {len(outcome.bad)} went wrong")
        for line in outcome.bad:
            print(f"  {line}")
        bad += len(outcome.bad)
    return 1 if bad else 0


def _plants(console: Console, memory: tuple[str, ...]) -> int:
    missed = 0
    for mistake, name in plants.cases(memory):
        with console.status(f"{mistake} in {name}"):
            result = plants.hunt(mistake, name)
        found = plants.is_found(result)
        missed += not found
        print(f"{mistake} in {name}: {'found' if found else 'MISSED'} after {result.seconds} s")
        for line in () if found else result.details:
            print(f"  {line}")
    return 1 if missed else 0


def _refuse_calls(console: Console, every: int) -> int:
    with console.status("refusing") as status:
        outcome = refused_calls.run(
            every=every,
            progress=lambda now: status.update(
                f"{now.calls} calls refused, {len(now.bad)} went wrong"
            ),
        )
    print(f"{outcome.calls} calls of the client refused, {len(outcome.bad)} went wrong")
    for line in outcome.bad:
        print(f"  {line}")
    return 1 if outcome.bad else 0


def _limits(console: Console) -> int:
    bad = 0
    for name in limits.SWEEPS:
        if not limits.possible(name):
            print(f"{name}: this limit cannot be set here")
            continue
        went = []
        with console.status(name) as status:
            for value, now in limits.sweep(name):
                went.append((value, now))
                status.update(f"{name} {value}: {now.how}")
        wrong = [(value, now) for value, now in went if not now.right]
        enough = next((value for value, now in went if now.how == "worked"), "no value")
        print(f"{name}: {len(went)} values, enough from {enough} on, {len(wrong)} went wrong")
        for value, now in wrong:
            print(f"  {value}: {now.how}; {now.text}")
        bad += len(wrong)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--kills", type=int, help="end after so many (default 1000)")
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", default="anon,shmem,hugetlb")
    parser.add_argument("--threads", type=int, default=4, choices=range(1, 9))
    parser.add_argument("--hang", type=float, default=20.0, help="s until a thread counts as hung")
    parser.add_argument("--directory", help="where the sources lie (a disk, to be read from)")
    parser.add_argument(
        "--every-call", type=int, metavar="N", default=0,
        help="instead: kill at every Nth entry and exit of a system call",
    )  # fmt: skip
    parser.add_argument(
        "--plants", action="store_true", help="instead: plant mistakes, each of which must be found"
    )
    parser.add_argument(
        "--refuse-calls", type=int, metavar="N", default=0,
        help="instead: refuse every Nth system call of lazy() in the client",
    )  # fmt: skip
    parser.add_argument("--limits", action="store_true", help="instead: sweep limits")
    parser.add_argument("--json", action="store_true", help="the result as one line of JSON")
    return parser


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _bar(console: Console, options: Options) -> Iterator[_Show]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Show(progress, options)


class _Show:
    """Moves the bar."""

    def __init__(self, progress: Progress, options: Options) -> None:
        self._progress = progress
        self._by_kills = bool(options.kills)
        total = options.kills or options.seconds
        what = "kills" if options.kills else "seconds"
        self._task = progress.add_task(what, total=total, text="")

    def __call__(self, result: Result) -> None:
        done = sum(result.kills.values()) if self._by_kills else int(result.seconds)
        text = f"{result.accesses:,} accesses, {result.takeovers} takeovers, {result.wrong} wrong"
        self._progress.update(self._task, completed=done, text=text)


def _print(result: Result) -> None:
    table = Table(show_header=False, box=None)
    kills = ", ".join(f"{count} {role}" for role, count in result.kills.items())
    rows = [
        ("kills", f"{sum(result.kills.values())} ({kills})"),
        ("takeovers", f"{result.takeovers}"),
        ("accesses judged", f"{result.accesses:,} in {result.seconds} s (seed {result.seed})"),
        ("mappings", f"{result.mappings}"),
        ("operations", ", ".join(f"{n} {name}" for name, n in result.operations.items() if n)),
        ("SIGBUS where the source fails", f"{result.source_errors_met}"),
        ("reads that met too many changes to judge", f"{result.undecided}"),
        ("stood still after a worker's death", _times(result.after_worker)),
        ("stood still after a supervisor's death", _times(result.after_supervisor)),
        ("slowest operations", "; ".join(result.slowest)),
        ("private memory", ", ".join(f"{r} {n} KiB" for r, n in result.private_kib.items())),
        ("page states", f"{result.state_bytes} bytes"),
        ("wrong bytes", f"{result.wrong}"),
        ("hung threads", f"{result.hung}"),
        ("verdict", "good" if result.good else "BAD"),
    ]
    for row in rows:
        table.add_row(*row)
    console = Console(soft_wrap=True)
    console.print(table)
    for line in result.details:
        console.print(line, markup=False, highlight=False)


def _times(still: Standstill) -> str:
    return f"{still.count} threads: p50 {still.p50}, p99 {still.p99}, max {still.max} ms"


if __name__ == "__main__":
    sys.exit(main())
