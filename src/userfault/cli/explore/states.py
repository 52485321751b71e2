"""Searches that were left: kept in a file each, so that `--continue` goes on with them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from userfault import __version__
from userfault.check.explore.job import Job, Progress
from userfault.cli.explore.pieces import Part, Piece
from userfault.kernel.errors import UsageError
from userfault.linux import homes


class _State(msgspec.Struct):
    version: str
    parts: list[Part]


def _path(job: Job) -> Path | None:
    home = homes.cache_home()
    if home is None:
        return None
    design = f"~{job.design}" if job.design else ""
    bugs = "".join(f"+{bug}" for bug in job.bugs)
    return Path(home) / homes.OURS / "explore" / f"{job.scenario}@{job.kernel}{design}{bugs}.json"


def keep(piece: Piece) -> Path | None:
    """Write down where it was left.

    None where it cannot be continued, or there is no place for it.
    """
    path = _path(piece.job)
    if path is None or piece.job.strategy != "reduced" or piece.job.preemptions is not None:
        return None
    parts = [_left(part) for part in piece.parts]
    fresh = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.json.encode(_State(__version__, parts)))
        fresh.replace(path)
    except OSError:
        return None
    return path


def _left(part: Part) -> Part:
    sums = part.sums()
    done = sums.exhausted
    before = Progress(
        sums.schedules, sums.cut, sums.depth, sums.seconds, done, False, sums.outcomes
    )
    before.saved = sums.saved
    return Part(msgspec.structs.replace(part.job, saved=()), done, before)


def forget(piece: Piece) -> None:
    """It has come to its end."""
    path = _path(piece.job)
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def resumed(piece: Piece) -> Piece:
    """Where it was left, or as it is if it never was.  Raises UsageError: of another version."""
    path = _path(piece.job)
    if path is None or not path.is_file():
        return piece
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except (msgspec.MsgspecError, OSError) as error:
        raise UsageError(
            f"cannot continue {piece.job.scenario}", cause=f"{path}: {error}", cure=f"remove {path}"
        ) from error
    if state.version != __version__:
        raise UsageError(
            f"cannot continue {piece.job.scenario}",
            cause=f"version {state.version} left it, and this is {__version__}",
            cure="explore it anew, without --continue",
        )
    bound = piece.job.schedules
    for part in state.parts:
        part.job = msgspec.structs.replace(part.job, schedules=bound, plain=0)
    return Piece(piece.scenario, state.parts)
