"""Hostile clients one after the other, and an honest one beside and after each."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from userfault.cli.client.crew import Outcome, Verdict, run, running
from userfault.client.firecracker import Firecracker
from userfault.client.hostile import VARIANTS, Hostile
from userfault.client.touching import Walk

_MODULE = "userfault.client.firecracker"
_HOSTILE = "userfault.client.hostile"
_SLACK_S = 30.0  # beyond its wait, before a hostile client itself is ended
_PAGES = 256  # an honest one touches so many


class Played(msgspec.Struct):
    """One variant: what the handler did, and how an honest client fared meanwhile and after."""

    variant: str
    is_what: str
    did: str
    during: Outcome
    after: Outcome

    @property
    def verdict(self) -> Verdict:
        """The worse one of the honest clients."""
        return max(self.during.verdict, self.after.verdict, key=lambda each: each.code)


def play(
    asked: Firecracker,
    which: str,
    wait_s: float,
    timeout_s: float,
    report: Callable[[int, int | None], None],
) -> list[Played]:
    """That variant, or all of them."""
    names = list(VARIANTS) if which == "all" else [which]
    found = []
    for number, name in enumerate(names):
        report(number, len(names))
        found.append(_one(asked, name, wait_s, timeout_s))
    return found


def _one(asked: Firecracker, name: str, wait_s: float, timeout_s: float) -> Played:
    honest = msgspec.structs.replace(asked, walk=Walk(pages=_PAGES, seed=asked.walk.seed))
    told = Hostile(asked, name, wait_s)
    with running(_HOSTILE, told, wait_s + _SLACK_S) as crew:
        ended = crew.until("placed")
        during = run(_MODULE, honest, timeout_s)
        did = _did(name, ended or crew.end())
    return Played(name, VARIANTS[name][0], did, during, run(_MODULE, honest, timeout_s))


def _did(name: str, ended: Outcome) -> str:
    """In words."""
    if ended.did:
        return ended.did
    if name.startswith("dies-"):
        return "it had ended by itself"
    if ended.verdict is Verdict.REFUSED and "killed" in ended.why:
        return "it killed the client"
    return ended.why
