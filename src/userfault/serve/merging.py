"""Answers of several workers made into that of one daemon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

Answer = dict[str, Any]

_CHANGES = ("attach", "detach", "drain", "replace")


def merged(command: str, answers: dict[int, Answer]) -> Answer:
    """`answers`: by place; {} of a worker that did not answer, which is an error where something
    was to be changed."""
    given = {place: each for place, each in sorted(answers.items()) if each}
    for answer in given.values():
        if not answer["ok"]:
            return answer
    stuck = sorted(answers.keys() - given.keys())
    if stuck and command in _CHANGES:
        return {
            "ok": False,
            "what": f"not all workers have carried out {command!r}",
            "cause": f"no answer of worker {', '.join(map(str, stuck))}",
            "cure": "ask again; look at the log",
        }
    if len(given) == 1 and not stuck:
        return next(iter(given.values()))
    first = next(iter(given.values()))
    merge = _MERGES.get(command)
    return {**first, **(merge(list(given.values())) if merge else {})}


def _sessions(answers: list[Answer]) -> Answer:
    return {
        "sessions": [each for answer in answers for each in answer["sessions"]],
        "waiting": sum(answer["waiting"] for answer in answers),
    }


def _status(answers: list[Answer]) -> Answer:
    return {
        "takeovers": sum(answer["takeovers"] for answer in answers),
        "workers": [each for answer in answers for each in answer["workers"]],
        "not_replaced": "; ".join(filter(None, (answer["not_replaced"] for answer in answers))),
    }


def _metrics(answers: list[Answer]) -> Answer:
    found: Answer = {
        name: sum(answer[name] for answer in answers)
        for name in ("waiting", "accepted", "refused", "takeovers", "workers")
    }
    for name in ("clients", "counters", "pages"):
        found[name] = _summed(answer[name] for answer in answers)
    found["oldest_s"] = max(answer["oldest_s"] for answer in answers)
    latency = answers[0]["latency"]
    for number, each in enumerate(latency):
        others = [answer["latency"][number] for answer in answers]
        each["counts"] = [
            sum(counts) for counts in zip(*(o["counts"] for o in others), strict=True)
        ]
        each["total_s"] = sum(other["total_s"] for other in others)
    found["latency"] = latency
    return found


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """By name; those that are zero, too."""
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return dict(found)


def _drain(answers: list[Answer]) -> Answer:
    return {"left": sum(answer["left"] for answer in answers)}


def _replace(answers: list[Answer]) -> Answer:
    return {"supervisors": [each for answer in answers for each in answer["supervisors"]]}


_MERGES: dict[str, Callable[[list[Answer]], Answer]] = {
    "sessions": _sessions,
    "status": _status,
    "metrics": _metrics,
    "drain": _drain,
    "replace": _replace,
}
