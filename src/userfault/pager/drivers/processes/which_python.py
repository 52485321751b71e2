"""Which Python runs the pager's processes.

Mostly `sys.executable`.  But where Python is frozen into an application or embedded in one
(PyInstaller, uWSGI), that names the application, and to run it would start it a second time.  So
it is looked at first, and never run unless it is a Python.  (sys.executable, sys._base_executable
and sys.frozen as CPython 3.11 to 3.14 and the usual freezers set them.)
"""

from __future__ import annotations

import os
import sys

import msgspec

from userfault.kernel.errors import PagerError, UsageError
from userfault.pager.drivers.processes.naming import VARIABLE, looks_like_python

_CURE = f"set {VARIABLE}, or pass Pager(python=...): a Python that has userfault installed"


class Interpreter(msgspec.Struct, frozen=True):
    """`path`: of the program.  `ours`: it is the one that runs this code, with what it has."""

    path: str
    ours: bool


def chosen_python(asked: str | None = None) -> Interpreter:
    """The one that was asked for, else that of USERFAULT_PYTHON, else the one that runs this.

    Raises UsageError for one that cannot be run, PagerError where there is none.
    """
    for what, path in ((f"python={asked!r}", asked), (VARIABLE, os.environ.get(VARIABLE))):
        if path:
            return Interpreter(_runnable(what, path), _same(path, sys.executable))
    for path in (sys.executable, getattr(sys, "_base_executable", "")):
        if path and _is_python(path):
            return Interpreter(path, ours=True)
    if not sys.executable:
        cause = "sys.executable is empty (an embedded interpreter)"
    elif getattr(sys, "frozen", False):
        cause = f"sys.executable is {sys.executable}, a frozen application and no Python"
    else:
        cause = f"sys.executable is {sys.executable}, which does not look like a Python"
    raise PagerError("cannot start a pager", cause=cause, cure=_CURE)


def _runnable(what: str, path: str) -> str:
    import shutil  # noqa: PLC0415  # it brings compression along, which a pager's start waits for

    found = shutil.which(path)
    if found is None:
        raise UsageError(
            what, cause=f"{path} is no program that can be run here", cure="name a Python"
        )
    return found


def _is_python(path: str) -> bool:
    """By what is known of it: running it would tell, but it may be anything."""
    if getattr(sys, "frozen", False):
        return False
    if looks_like_python(path):
        return True
    import sysconfig  # noqa: PLC0415  # for the few that are named otherwise

    folder, version = sysconfig.get_config_var("BINDIR"), sysconfig.get_config_var("LDVERSION")
    return _same(path, f"{folder}/python{version}")


def _same(path: str, other: str) -> bool:
    try:
        return path == other or os.path.samefile(path, other)
    except OSError:
        return False
