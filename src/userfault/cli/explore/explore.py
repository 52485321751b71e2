"""`userfault explore`: every interleaving of a few tasks on the model kernel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from userfault.check.explore.audit import audited
from userfault.check.explore.building import loading
from userfault.check.explore.building.scenario import Scenario
from userfault.check.explore.building.switches import SWITCHES, bugs_named
from userfault.check.explore.job import STRATEGIES, Job
from userfault.check.explore.runner import Runner
from userfault.check.explore.steps import TWO_TRACES
from userfault.check.explore.strategies import replay as replaying
from userfault.check.explore.telling.page import page
from userfault.check.explore.telling.timeline import Timeline, tell
from userfault.cli.explore import states
from userfault.cli.explore.crew import Crew
from userfault.cli.explore.pieces import Part, Piece, Result, plan
from userfault.cli.explore.table import (
    print_failure,
    print_left_out,
    print_list,
    print_result,
    print_timeline,
    print_unseen,
)
from userfault.cli.shared import errors, json_output, progress
from userfault.cli.shared.screen import Screen
from userfault.kernel.errors import UsageError
from userfault.model.profiles import Profile, profile_named

_SCHEMA = "userfault.explore/1"
_PLAIN = 2_000  # schedules of plain search that are counted for comparison
_BOUND = 200_000
_AUDITED = 50  # schedules of a scenario, for each of two strategies


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--list", "as_list", is_flag=True, help="List the scenarios; run none.")
@click.option("--kernel", metavar="V", help="The model's version, as 6.18 (default: its own).")
@click.option("--design", metavar="NAME", help="How the model's core asks memory types, as merged.")
@click.option("--switch", metavar="BUG", multiple=True, help="Put this old bug of Linux back.")
@click.option(
    "--strategy", type=click.Choice(STRATEGIES), default="reduced", help="Default: reduced."
)
@click.option(
    "--preemptions", metavar="N", type=click.IntRange(0), help="Interrupt tasks no more often."
)
@click.option(
    "--schedules", metavar="N", type=click.IntRange(1), help=f"At most (default: {_BOUND})."
)
@click.option("--seed", metavar="S", type=int, default=1, help="Of random and pct (default: 1).")
@click.option("--replay", metavar="LINE", help="Run the one schedule of a line, and tell it.")
@click.option(
    "--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a failure as a page."
)
@click.option("--jobs", metavar="N", type=click.IntRange(1), help="Processes (default: CPUs).")
@click.option("--continue", "resume", is_flag=True, help="Go on where it was left.")
@click.option(
    "--plain", metavar="N", type=click.IntRange(0), default=_PLAIN,
    help=f"Count so many plain schedules for comparison (default: {_PLAIN}).",
)  # fmt: skip
@click.option("--audit", is_flag=True, help="Make independent steps in both orders instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def explore(
    names: tuple[str, ...],
    as_list: bool,
    kernel: str | None,
    design: str | None,
    switch: tuple[str, ...],
    strategy: str,
    preemptions: int | None,
    schedules: int | None,
    seed: int,
    replay: str | None,
    html: Path | None,
    jobs: int | None,
    resume: bool,
    plain: int,
    audit: bool,
    as_json: bool,
) -> int:
    """Run scenarios on the model kernel under every schedule, and check it after every step.

    NAME: a scenario, a group, a pattern, or a Python file of your own.  Exit code 0: nothing was
    violated; 1: something was.
    """
    console = Screen()
    if replay is not None:
        return _replay(console, names, replay, html, as_json=as_json)
    chosen = [(one.under(design or ""), file) for one, file in loading.named(names)]
    if as_list:
        return _list(console, [one for one, _ in chosen], as_json=as_json)
    if audit:
        return _audit(console, _meant(chosen, kernel, design, console))
    bugs = tuple(sorted(bugs_named(switch)))
    bound = schedules or _BOUND
    wanted = Job("", "", "", design or "", bugs, strategy, preemptions, bound, seed, plain=plain)
    wanted.make()
    meant = _meant(chosen, kernel, design, None if as_json else console)
    work = _plan(meant, wanted, jobs or os.cpu_count() or 1)
    if resume:
        work = [states.resumed(piece) for piece in work]
    return _run(console, work, jobs or os.cpu_count() or 1, html, as_json=as_json)


_Meant = tuple[Scenario, str, Profile]  # with its file, and the kernel that it runs on


def _meant(
    chosen: Sequence[tuple[Scenario, str]],
    kernel: str | None,
    design: str | None,
    console: Screen | None,
) -> list[_Meant]:
    """Those that have a meaning on the kernel and under the design; the console hears of others.

    Raises UsageError where none has.
    """
    found = []
    left_out: dict[str, list[str]] = {}
    for scenario, file in chosen:
        profile = profile_named(kernel or scenario.kernel)
        why = ""
        if scenario.kernels and profile.name not in scenario.kernels:
            why = f"on {profile.name}: it is for {', '.join(scenario.kernels)}"
        elif design and (refused := scenario.refusal(profile)):
            why = f"under {design}: its memory cannot be set up: {refused}"
        if why:
            left_out.setdefault(why, []).append(scenario.name)
        else:
            found.append((scenario, file, profile))
    if left_out and not found:
        why, names = next(iter(left_out.items()))
        where, _, cause = why.partition(": ")
        raise UsageError(f"{names[0]} has no meaning {where}", cause=cause)
    if console is not None:
        print_left_out(console, left_out)
    return found


def _plan(chosen: Sequence[_Meant], wanted: Job, processes: int) -> list[Piece]:
    """A piece for each scenario."""
    found = []
    for scenario, file, profile in chosen:
        version = profile.name
        job = msgspec.structs.replace(wanted, scenario=scenario.name, kernel=version, file=file)
        plain = wanted.strategy != "reduced" or wanted.preemptions is not None
        if plain or len(chosen) >= processes:
            found.append(Piece(scenario, [Part(job)]))
        else:
            found.append(plan(job, scenario, processes))
    return found


def _list(console: Screen, scenarios: Sequence[Scenario], *, as_json: bool) -> int:
    if not as_json:
        print_list(console, scenarios)
        return 0
    told = [
        {"name": one.name, "kernel": one.kernel, "group": one.group, "sentence": one.sentence}
        for one in scenarios
    ]
    switches = list(SWITCHES.values())
    json_output.show(_SCHEMA, {"scenarios": told, "switches": switches})
    return 0


def _audit(console: Screen, chosen: Sequence[_Meant]) -> int:
    """Whether steps that recorded nothing in common commute; the exit code."""
    wrong = 0
    for scenario, _, profile in chosen:
        runner = Runner(scenario, profile)
        checked, claims = audited(runner, _AUDITED)
        wrong += bool(claims)
        console.print(f"{scenario.name}: {checked} pairs of steps, {len(claims)} do not commute")
        if claims:
            console.print(f"  {claims[0]}")
    return errors.FAILED if wrong else 0


def _run(
    console: Screen, work: Sequence[Piece], processes: int, html: Path | None, *, as_json: bool
) -> int:
    """Run them all; what was not seen is told and kept also when this is interrupted."""
    crew = Crew(work, processes)
    report = _Report(console, html, as_json=as_json)
    try:
        with progress.bar("exploring") as show:
            for piece in work:
                if piece.finished:  # it was continued, and nothing is left
                    report.add(piece)
            for ended in crew.run():
                if ended is not None:
                    report.add(ended)
                show(crew.schedules, None)
    finally:
        for piece in work:
            report.add(piece)
    return errors.FAILED if report.broken else 0


class _Report:
    """Tells each piece once."""

    def __init__(self, console: Screen, html: Path | None, *, as_json: bool) -> None:
        self._console = console
        self._html = html
        self._as_json = as_json
        self._told: set[str] = set()
        self.broken = 0

    def add(self, piece: Piece) -> None:
        """Its result, whether it has come to its end or not."""
        if piece.job.scenario in self._told:
            return
        self._told.add(piece.job.scenario)
        result = piece.result()
        self.broken += result.failure is not None
        kept = False
        if result.exhausted or result.failure is not None:
            states.forget(piece)
        else:
            kept = states.keep(piece) is not None
        if self._as_json:
            json_output.line({"schema": _SCHEMA, **msgspec.to_builtins(result)})
        else:
            print_result(self._console, result)
        if result.failure is not None:
            self._failure(piece.scenario, result)
        elif not result.exhausted and not self._as_json:
            print_unseen(self._console, result, kept=kept)

    def _failure(self, scenario: Scenario, result: Result) -> None:
        assert result.failure is not None
        if result.failure.violation.kind == TWO_TRACES:  # it cannot be run again
            if not self._as_json:
                self._console.print(str(result.failure.violation))
            return
        line = replaying.parse(result.failure.line)
        timeline = tell(scenario, profile_named(result.kernel), line)
        if not self._as_json:
            print_failure(self._console, result, timeline)
        if self._html is not None and self.broken == 1:
            _write(self._html, timeline)


def _write(path: Path, timeline: Timeline) -> None:
    path.write_text(page(timeline), encoding="utf-8")


def _replay(
    console: Screen, names: Sequence[str], text: str, html: Path | None, *, as_json: bool
) -> int:
    """Run one schedule and tell it; the exit code."""
    line = replaying.parse(text)
    for scenario, _ in loading.named(names or [line.scenario]):
        if scenario.name == line.scenario:
            break
    else:
        raise UsageError(
            f"the replay line is of {line.scenario}, which is not among what was named",
            cure="name the file that defines it",
        )
    timeline = tell(scenario.under(line.design), profile_named(line.kernel), line)
    if as_json:
        json_output.show(_SCHEMA, timeline)
    else:
        print_timeline(console, timeline)
    if html is not None:
        _write(html, timeline)
    return errors.FAILED if timeline.violation is not None else 0
