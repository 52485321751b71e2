"""Scenarios by name, and those of a user's own file."""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from userfault.check.explore import scenarios
from userfault.check.explore.building.scenario import Scenario, scenario
from userfault.kernel.errors import UsageError


def of_file(path: str) -> list[Scenario]:
    """The scenarios that a Python file defines with `@scenario()`.  Raises UsageError."""
    known = set(scenario.by_name)
    spec = importlib.util.spec_from_file_location("userfault_scenario", Path(path).resolve())
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UsageError(f"there is no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"cannot load the scenarios of {path}", cause=f"{type(error).__name__}: {error}"
        ) from error
    found = [one for name, one in scenario.by_name.items() if name not in known]
    if not found:
        raise UsageError(
            f"{path} defines no scenario",
            cure="decorate a function that takes a World with @scenario(); see docs/explorer.md",
        )
    return found


def named(names: Sequence[str]) -> list[tuple[Scenario, str]]:
    """What the names mean, with the file that each comes from ("": the package).

    A name may be a pattern (`copy-*`) or a group; one that ends in `.py` is a file.  No names:
    every scenario of the package.  Raises UsageError for a name that means nothing.
    """
    ours = scenarios.SCENARIOS
    if not names:
        return [(one, "") for one in ours]
    found: dict[str, tuple[Scenario, str]] = {}
    for name in names:
        if name.endswith(".py"):
            found.update({one.name: (one, name) for one in of_file(name)})
            continue
        meant = [one for one in ours if name == one.group or fnmatch.fnmatch(one.name, name)]
        if not meant:
            raise UsageError(
                f"no scenario is called {name!r}", cure="`userfault explore --list` names them"
            )
        found.update({one.name: (one, "") for one in meant})
    return list(found.values())
