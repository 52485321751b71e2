"""`userfault contract`: does a memory type keep what it has to, under every schedule?"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import click
from rich.text import Text

from userfault.check.explore.contract.rules import RULES
from userfault.check.explore.contract.trying import SCHEDULES, Tried, again, tried
from userfault.check.explore.strategies import replay as replaying
from userfault.cli.explore.table import print_timeline
from userfault.cli.shared import errors, json_output
from userfault.cli.shared.screen import Screen
from userfault.kernel.errors import UsageError
from userfault.model.designs.catalogue import design_named
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.profiles import NEXT, Config, profile_named

SCHEMA = "userfault.contract/1"
_COMMAND = "userfault contract {}"


@click.command()
@click.argument("name", metavar="MODULE:TYPE")
@click.option(
    "--profile", "--kernel", metavar="V", default=NEXT.name, help="As 7.3 (default: next)."
)
@click.option("--design", metavar="NAME", default=Config().design, help="As merged, or posted.")
@click.option(
    "--schedules", metavar="N", type=click.IntRange(1), default=SCHEDULES,
    help=f"Of a scenario, at most (default: {SCHEDULES}).",
)  # fmt: skip
@click.option("--replay", metavar="LINE", help="Run the one schedule of a breach, and tell it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def contract(
    name: str, profile: str, design: str, schedules: int, replay: str | None, as_json: bool
) -> int:
    """Run the rules of a memory type's contract against one, under every schedule of a few tasks.

    MODULE:TYPE: a MemoryOps object, in a module or a Python file.  Exit code 0: no rule was broken
    under any schedule; 1: one was: the rule, and each step that led to it; 5: none that was seen,
    but a scenario had more schedules.
    """
    ops = _found(name)
    console = Screen()
    if replay is not None:
        return _replay(console, name, ops, replay, as_json=as_json)
    known = profile_named(profile)
    if as_json:
        header = {"schema": SCHEMA, "type": ops.name, "kernel": profile}
        json_output.line({**header, "design": design_named(design).name})
    broken: list[Tried] = []
    unseen: list[Tried] = []
    for each in tried(ops, known, design_named(design).name, schedules):
        if each.breach is not None:
            broken.append(each)
        if each.holds and not each.exhausted:
            unseen.append(each)
        if as_json:
            json_output.line(each)
        else:
            _print(console, each)
    if not as_json:
        _print_breaches(console, name, broken)
        _print_unseen(console, unseen, schedules)
    if broken:
        return errors.FAILED
    return errors.UNSEEN if unseen else 0


def _replay(console: Screen, name: str, ops: MemoryOps, text: str, *, as_json: bool) -> int:
    """Run one schedule and tell it; the exit code."""
    timeline = again(ops, replaying.parse(text))
    if as_json:
        json_output.show(SCHEMA, timeline)
    else:
        print_timeline(console, timeline, _COMMAND.format(name))
    return errors.FAILED if timeline.violation is not None else 0


def _found(name: str) -> MemoryOps:
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name:
        raise UsageError(
            f"not a memory type: {name!r}",
            cause="it is named by its module and its name there",
            cure="as userfault.model.memtypes.shmem:SHMEM, or driver.py:DRIVER",
        )
    found = getattr(_loaded(module_name), attribute, None)
    if not isinstance(found, MemoryOps):
        what = "has no" if found is None else "has another kind of"
        raise UsageError(
            f"{module_name} {what} {attribute!r}",
            cause="a memory type is a MemoryOps (userfault.model.memtypes.ops)",
        )
    return found


def _loaded(name: str) -> ModuleType:
    try:
        if not name.endswith(".py"):
            sys.path.insert(0, os.getcwd())  # as `python -m` has it
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location("userfault_contract", Path(name).resolve())
        if spec is None or spec.loader is None or not Path(name).is_file():
            raise UsageError(f"there is no Python file {name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot load {name}", cause=f"{type(error).__name__}: {error}") from error
    return module


def _print(console: Screen, each: Tried) -> None:
    verdict = Text("clean ", "green") if each.exhausted else Text("open  ", "yellow")
    if not each.holds:
        verdict = Text("broken", "bold red")
    other = each.breach.rule if each.breach is not None else each.rule
    aside = f" Rule {other} is broken on the way." if other != each.rule else ""
    told = f" rule {each.rule}, {each.scenario}: {each.schedules} schedules. {each.sentence}"
    console.print(Text.assemble(verdict, told, (aside, "bold red")))


def _print_breaches(console: Screen, name: str, broken: list[Tried]) -> None:
    """What each comes to; of a breach that several scenarios met, the first."""
    seen: set[tuple[int, str]] = set()
    for each in broken:
        breach = each.breach
        assert breach is not None
        broke = breach.timeline.violation if breach.timeline is not None else None
        what = broke.name if broke is not None else each.scenario
        key = breach.rule, breach.told.partition("broke the contract of")[2] or what
        if key in seen:
            continue
        seen.add(key)
        console.print(Text(f"\nrule {breach.rule} is broken: {RULES[breach.rule]}", "bold red"))
        if breach.timeline is None:
            console.print(Text(f"while the memory of {each.scenario} was set up: {breach.told}"))
        else:
            console.print(f"in {each.scenario}, step by step:")
            print_timeline(console, breach.timeline, _COMMAND.format(name))


def _print_unseen(console: Screen, unseen: list[Tried], schedules: int) -> None:
    """What a bound has left open."""
    if unseen:
        names = ", ".join(each.scenario for each in unseen)
        told = f"not all schedules were seen of {names}: the bound was {schedules} (--schedules)"
        console.print(Text(told, "yellow"))
