"""Everything that is known of one kernel, or one profile of the model, in one run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from userfault.check import kernels
from userfault.check.differential.found import profile_of
from userfault.check.run import run
from userfault.check.words.outcome import CaseResult
from userfault.check.words.statement import Statement
from userfault.lab import image
from userfault.lab.capabilities import capabilities
from userfault.lab.reproduce import reproducers, run_here, run_in_guest
from userfault.lab.results import OWN_BUILD, Results, fold
from userfault.lab.session import Session
from userfault.lab.store import Kernel, numbers
from userfault.lab.suites import SUITES
from userfault.model.profiles import PROFILES

_MODEL = "this package"

Tell = Callable[[str], None]


def collect_here(statements: Iterable[Statement], tell: Tell) -> Results:
    """Of the running kernel."""
    factory = kernels.live()
    release = numbers(os.uname().release)
    column = ".".join(map(str, release))
    tell(f"{column}: statements")
    cases = list(run(statements, factory.make))
    tell(f"{column}: memories and reproducers")
    return Results(
        column=column,
        kernel=f"Linux {column}",
        release=release,
        package=OWN_BUILD,
        profile=profile_of((release[0], release[1])).name,
        model=False,
        statements=fold(cases),
        cells=list(capabilities(factory.make)),
        programs=run_here(reproducers().values()),
    )


def collect_guest(kernel: Kernel, statements: Iterable[Statement], tell: Tell) -> Results:
    """Of a kernel of the lab, which is booted for it, and once more for the reproducers."""
    release = numbers(kernel.version)
    column = ".".join(map(str, release))
    with Session(kernel) as session:
        tell(f"{column}: statements")
        cases = [result for found in statements for result in _each_memory(session, found)]
        tell(f"{column}: memories and reproducers")
        cells = list(capabilities(session.live))
    return Results(
        column=column,
        kernel=f"Linux {kernel.release}",
        release=release,
        package=_package(kernel),
        profile=profile_of((release[0], release[1])).name,
        model=False,
        statements=fold(cases),
        cells=cells,
        programs=programs_in_guest(kernel),
    )


def _package(kernel: Kernel) -> str:
    """Where a kernel is from: the suite of the archive, and the version of its package."""
    found = SUITES.get(kernel.suite)
    if found is None:
        return kernel.name
    return f"Debian {found.preferred or found.name} {kernel.version}"


def _each_memory(session: Session, found: Statement) -> list[CaseResult]:
    return [session.run_case(found, memory) for memory in found.memories or ("",)]


def programs_in_guest(kernel: Kernel, names: Iterable[str] | None = None) -> dict[str, str]:
    """What the reproducers (or those named) print on a kernel of the lab."""
    modules = Path(kernel.modules) if kernel.modules else None
    system = image.system(Path(kernel.busybox), modules)
    known = reproducers()
    wanted = [known[name] for name in (names or known)]
    return run_in_guest(Path(kernel.vmlinuz), system, wanted)


def collect_model(profile: str, statements: Iterable[Statement], tell: Tell) -> Results:
    """Of the model under a profile."""
    tell(f"model {profile}: statements and memories")
    factory = kernels.model(profile)
    return Results(
        column=f"model {profile}",
        kernel=factory.name,
        release=PROFILES[profile].release,
        package=_MODEL,
        profile=profile,
        model=True,
        statements=fold(run(statements, factory.make)),
        cells=list(capabilities(factory.make)),
    )


def file_name(results: Results) -> str:
    """One file for each series: a newer kernel of it takes the place of the older."""
    series = results.profile if results.model else ".".join(map(str, results.release[:2]))
    return f"{'model' if results.model else 'linux'}-{series}.json"
