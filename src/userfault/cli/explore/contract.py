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

from userfault.check.explore.contract import RULES, Tried, tried
from userfault.cli.explore.table import print_steps
from userfault.cli.shared import errors, json_output
from userfault.cli.shared.terminal import Screen
from userfault.kernel.errors import UsageError
from userfault.model.memtypes.ops import MemoryOps
from userfault.model.profiles import NEXT, profile_named

SCHEMA = "userfault.contract/1"


@click.command()
@click.argument("name", metavar="MODULE:TYPE")
@click.option(
    "--profile", "--kernel", metavar="V", default=NEXT.name, help="As 7.3 (default: next)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def contract(name: str, profile: str, as_json: bool) -> int:
    """Run the rules of a memory type's contract against one, under every schedule of a few tasks.

    MODULE:TYPE: a MemoryOps object, in a module or a Python file.  Exit code 0: no rule was broken;
    1: one was: the rule, and each step that led to it.
    """
    ops = _found(name)
    console = Screen()
    if as_json:
        json_output.line({"schema": SCHEMA, "type": ops.name, "kernel": profile})
    broken: list[Tried] = []
    for each in tried(ops, profile_named(profile)):
        if each.breach is not None:
            broken.append(each)
        if as_json:
            json_output.line(each)
        else:
            _print(console, each)
    if not as_json:
        _print_breaches(console, broken)
    return errors.FAILED if broken else 0


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
    if each.breach is not None:
        verdict = Text("broken", "bold red")
    told = f" rule {each.rule}, {each.scenario}: {each.schedules} schedules. {each.sentence}"
    console.print(Text.assemble(verdict, told))


def _print_breaches(console: Screen, broken: list[Tried]) -> None:
    """What each comes to; of a breach that several scenarios met, the first."""
    seen: set[tuple[int, str]] = set()
    for each in broken:
        breach = each.breach
        assert breach is not None
        key = breach.rule, breach.told.partition("broke the contract of")[2] or each.scenario
        if key in seen:
            continue
        seen.add(key)
        console.print(Text(f"\nrule {breach.rule} is broken: {RULES[breach.rule]}", "bold red"))
        if breach.timeline is None:
            console.print(Text(breach.told))
        else:
            console.print(f"in {each.scenario}, step by step:")
            print_steps(console, breach.timeline)
