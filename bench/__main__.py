"""The entry: `python -m bench NAME...|all [--tiny] [--rounds N] [--json FILE]`."""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from bench import (
    budget,
    bulk,
    clones,
    cold,
    criu,
    dirty,
    exec,
    fairness,
    latency,
    model,
    opening,
    patterns,
    postcopy,
    restore,
    serve,
    start,
    store,
    vm,
    windows,
)
from bench.bytecode import compile_package
from bench.images import NotCachedError, NotColdError
from bench.machine import describe, unbind
from bench.measure import DifferError
from bench.native import CompilerMissingError
from bench.report import Report, document, show
from bench.run import Run
from bench.store import ToolMissingError
from bench.umap import UmapError
from bench.umap import folder as umap_folder

BENCHMARKS: dict[str, ModuleType] = {
    "latency": latency,
    "bulk": bulk,
    "patterns": patterns,
    "cold": cold,
    "windows": windows,
    "fairness": fairness,
    "start": start,
    "opening": opening,
    "model": model,
    "store": store,
    "restore": restore,
    "dirty": dirty,
    "clones": clones,
    "serve": serve,
    "budget": budget,
    "vm": vm,
    "postcopy": postcopy,
    "exec": exec,
    "criu": criu,
}
# They want programs that are fetched first, or root and the network of the tests.
BY_NAME = {"exec", "criu", "postcopy"}


def main() -> int:
    """Run what was asked for; 0 when it ran through, whatever the figures are."""
    options = _parser().parse_args()
    asked = dict.fromkeys(options.names)
    everything = [name for name in BENCHMARKS if name not in BY_NAME or name in asked]
    names = everything if "all" in asked else list(asked)
    machine = {**describe(), "bytecode": compile_package()}
    for key, value in machine.items():
        print(f"{key}: {value}")
    with tempfile.TemporaryDirectory(prefix="userfault-bench-", dir=options.directory) as scratch:
        try:
            rounds = options.rounds or _rounds(options)
            run = Run(
                Path(scratch),
                tiny=options.tiny,
                rounds=rounds,
                images=options.image,
                umap=options.umap,
                mib=options.mib,
                guest=options.guest,
                criu=options.criu,
            )
            for name in names:
                _one(run, name)
        except (
            CompilerMissingError,
            DifferError,
            NotCachedError,
            NotColdError,
            ToolMissingError,
            UmapError,
        ) as error:
            print(f"the run has failed: {error}", file=sys.stderr)
            return 1
        finally:
            unbind()
    for line in run.left_out:
        print(f"left out: {line}")
    report = Report(machine, options.tiny, run.rows, run.checks.held, run.left_out)
    if options.json:
        report.save(options.json)
    if options.document:
        document(report, options.document, options.section)
    return 0


def _rounds(options: argparse.Namespace) -> int:
    return 2 if options.tiny else 7


def _one(run: Run, name: str) -> None:
    module = BENCHMARKS[name]
    print(f"\n{inspect.getdoc(module)}\n", flush=True)
    shown = len(run.rows)
    module.run(run)
    for row in run.rows[shown:]:
        print(show(row), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*BENCHMARKS, "all"], metavar="NAME",
                        help=f"one of {', '.join(BENCHMARKS)}; or all")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="small sizes: does it work at all")
    parser.add_argument("--rounds", type=int, default=0, help="counted rounds (default 7)")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument("--document", type=Path, help="put machine and table into this document")
    parser.add_argument("--section", default="figures",
                        help="between which marks of it (figures, store)")  # fmt: skip
    parser.add_argument("--image", type=Path, action="append", default=[],
                        help="one more image for `store`: a memory file of your own")  # fmt: skip
    parser.add_argument("--umap", type=_umap, metavar="FOLDER",
                        help="where UMap is built (lib/libumap.so), as a rival")  # fmt: skip
    parser.add_argument("--guest", action="store_true",
                        help="`restore`: a QEMU guest too (a kernel of the lab)")  # fmt: skip
    parser.add_argument("--criu", action="store_true",
                        help="`restore`: CRIU's daemon as a rival (root, Debian)")  # fmt: skip
    parser.add_argument("--mib", type=int, default=512, help="the image of `windows`, `budget`")
    parser.add_argument("--directory", type=Path, help="where images lie while it runs")
    return parser


def _umap(text: str) -> Path:
    try:
        return umap_folder(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
