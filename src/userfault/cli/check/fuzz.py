"""`userfault check --fuzz` and `--program`: the model against the running kernel."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

from rich.console import Console

from userfault.check.differential import areas, program
from userfault.check.differential.batch import Runner, seeds
from userfault.check.differential.found import kernels, profile_of
from userfault.check.differential.pair import Divergence
from userfault.check.differential.record import Line
from userfault.check.differential.twins import Twins
from userfault.check.live.kernel import LiveKernel
from userfault.cli.check import crew
from userfault.cli.shared import errors, interrupts
from userfault.cli.shared.checking.totals import TITLES, Totals, print_lines, print_totals
from userfault.cli.shared.screen import Screen
from userfault.kernel.calls import HUGE
from userfault.kernel.errors import MemoryUnavailable
from userfault.linux.hugepool import PoolShare, growing

# Huge pages of a job, in programs.  Free pages belong to whoever takes them: there are more than
# one program needs.
_PROGRAMS = 3


def fuzz(programs: int, seed: int | None, jobs: int) -> int:
    """Run random programs, `jobs` of them at once; the exit code."""
    seed = random.getrandbits(32) if seed is None else seed
    console = Screen()
    kernels()  # says why it cannot run here, before a process is started for it
    profile = profile_of(LiveKernel().release)
    totals = Totals()
    complete = False
    try:
        with _huge_pages(console, jobs) as huge:
            console.print(f"seed {seed}: {programs} programs on this kernel and on its model")
            console.print(_of_another_release())
            batches = seeds(seed, programs, huge=huge, rwp=profile.rwp)
            for number, progress in crew.run(batches, jobs):
                totals.report(console, number, progress)
        complete = True
    finally:
        print_totals(console, totals, complete=complete)
    return errors.FAILED if totals.diverging else 0


def _of_another_release() -> str:
    """What to know where the model has no profile of this very release."""
    release = LiveKernel().release
    profile = profile_of(release)
    if profile.release == release:
        return ""
    version = ".".join(map(str, release))
    return (
        f"(no profile of {version}: the model is that of {profile.name}, and what has changed"
        " since diverges)\n"
    )


@contextlib.contextmanager
def _huge_pages(console: Console, jobs: int = 1) -> Iterator[bool]:
    """Free huge pages for so many programs at a time; False where there are none."""
    share: PoolShare | None = None
    try:
        with interrupts.deferred():
            try:
                with growing(HUGE):
                    share = PoolShare(HUGE, _PROGRAMS * jobs * areas.HUGE_PAGES, grow=True)
            except MemoryUnavailable as error:
                console.print(f"without hugetlb: {error.what} ({error.cause})")
        yield share is not None
    finally:
        with interrupts.deferred():
            if share is not None:
                share.close()


def replay(text: str, twins: Twins | None = None) -> int:
    """Run one program on both kernels, or on two models, and show every call; the exit code."""
    console = Screen()
    steps = program.from_text(text)
    if twins is not None:
        runner = Runner(*twins.factories(), twins=twins)
        return _shown(console, runner.trace(steps), twins.titles)
    with _huge_pages(console):
        runner = Runner(*kernels())
        with interrupts.deferred():
            traces = runner.trace(steps)
    return _shown(console, traces, TITLES)


def _shown(
    console: Screen, traces: tuple[Divergence | None, list[Line]], titles: tuple[str, str]
) -> int:
    found, lines = traces
    print_lines(console, [(line.what, line.live, line.model) for line in lines], titles)
    console.print("they differ" if found else "they agree")
    return errors.FAILED if found else 0
