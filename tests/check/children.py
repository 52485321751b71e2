"""What runs as a user without rights; each function is run by `helpers.child`."""

from __future__ import annotations

import os

# What the agent is compiled with; it is loaded then, and nobody may not be able to read it.
import shlex  # noqa: F401
import shutil  # noqa: F401
import subprocess  # noqa: F401
import tempfile  # noqa: F401

from helpers.child import become_nobody
from userfault.check.differential.found import kernels
from userfault.check.live.kernel import live_kernel
from userfault.check.run import run
from userfault.check.statements import load
from userfault.kernel.errors import Unavailable


def statements_as_nobody(directory: str) -> list[tuple[int, str, str]]:
    """Every third statement, on the running kernel: number, verdict and reason."""
    statements = load()[::3]
    _become_nobody(directory)
    return [(r.number, r.verdict.value, r.reason) for r in run(statements, live_kernel)]


def programs_as_nobody(directory: str) -> str:
    """Why random programs cannot run."""
    _become_nobody(directory)
    try:
        kernels()
    except Unavailable as error:
        return str(error)
    return ""


def _become_nobody(directory: str) -> None:
    """With a directory of its own for the agent."""
    os.environ["XDG_CACHE_HOME"] = directory
    become_nobody()
