"""The options that this interpreter was started with, for another one that is to be like it.

An interpreter that ignores the environment (`-I`, `-E`), or a folder that others may write (`-P`,
`-s`), mostly has to: what it starts must not bring back in what was kept out.  The environment
itself (PYTHONSAFEPATH, ...) is inherited.
"""

from __future__ import annotations

import sys

# Not: -i and PYTHONINSPECT (no child waits for a user), -u (each has its own need), -q.
_COUNTED = (
    ("debug", "d"),
    ("dont_write_bytecode", "B"),
    ("no_site", "S"),
    ("verbose", "v"),
    ("bytes_warning", "b"),
    ("optimize", "O"),
)
_APART = (("ignore_environment", "E"), ("no_user_site", "s"), ("safe_path", "P"))


def options() -> list[str]:
    """Command-line options: those of `subprocess._args_from_interpreter_flags`, and all of -X."""
    flags = sys.flags
    found = ["-I"] if flags.isolated else ["-" + to for name, to in _APART if getattr(flags, name)]
    found += ["-" + to * getattr(flags, name) for name, to in _COUNTED if getattr(flags, name)]
    # What these put into sys.warnoptions by themselves they will put in again.
    implied = {"error::BytesWarning", "default::BytesWarning"} if flags.bytes_warning else set()
    implied |= {"default"} if flags.dev_mode else set()
    found += [f"-W{each}" for each in sys.warnoptions if each not in implied]
    extra = dict(sys._xoptions)
    if flags.dev_mode:  # perhaps by PYTHONDEVMODE, which the other one may ignore
        extra.setdefault("dev", True)
    if flags.utf8_mode:
        extra.setdefault("utf8", "1")
    for name, value in extra.items():
        found += ["-X", name if value is True else f"{name}={value}"]
    return found
