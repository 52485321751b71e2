"""What `userfault lab` and its workers say to each other, one JSON object a line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import msgspec

from userfault.check.differential.batch import Batch
from userfault.check.words.outcome import CaseResult
from userfault.cli.shared.checking.tally import Progress
from userfault.lab.store import Kernel

MEMORY_MIB = 1024


class Setup(msgspec.Struct, frozen=True):
    """What a worker is for: the kernel that it boots; the argument of its program.

    `outside`: the module of a memory type, whose files stand for those of memfd_create(2).
    """

    kernel: Kernel
    memory_mib: int = MEMORY_MIB
    extra: str = ""  # words for the kernel's command line
    outside: str = ""

    @property
    def module(self) -> Path | None:
        """The path of the module."""
        return Path(self.outside) if self.outside else None


class CaseJob(msgspec.Struct, frozen=True, tag="case"):
    """Run a statement on a memory."""

    number: int
    memory: str


class BatchJob(msgspec.Struct, frozen=True, tag="batch"):
    """Run programs there and on the model."""

    batch: Batch


class ReplayJob(msgspec.Struct, frozen=True, tag="replay"):
    """Run one program, and show every call."""

    program: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The first thing that a worker says: what it has booted, or why it could not.

    `rwp`: the kernel has RWP (7.3).
    """

    kernel: str
    unknown_features: int = 0
    failure: str = ""
    rwp: bool = False


class CaseDone(msgspec.Struct, frozen=True, tag="case done"):
    """The end of a CaseJob."""

    result: CaseResult


class BatchPart(msgspec.Struct, frozen=True, tag="batch part"):
    """A BatchJob so far; `done` at its end.

    `lost`: programs in which the machine was lost, each with the reason.  `failure`: why there is
    no more of it.
    """

    progress: Progress
    lost: tuple[tuple[str, str], ...] = ()
    failure: str = ""
    done: bool = False


class ReplayDone(msgspec.Struct, frozen=True, tag="replay done"):
    """The end of a ReplayJob: (call, there, model) of every line."""

    lines: tuple[tuple[str, str, str], ...]
    differ: bool
    failure: str = ""


Job: TypeAlias = CaseJob | BatchJob | ReplayJob
Said: TypeAlias = Ready | CaseDone | BatchPart | ReplayDone
