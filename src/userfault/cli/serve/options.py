"""What the commands of a daemon have in common: where it is asked, and how images are named."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from typing import Any

import click

from userfault.kernel.errors import UsageError

CONTROL = "USERFAULT_CONTROL"


def control(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that names the daemon."""
    return click.option(
        "--control",
        metavar="PATH",
        envvar=CONTROL,
        required=True,
        help=f"The daemon's control socket (or {CONTROL} in the environment).",
    )(function)


def named(what: str) -> tuple[str, str]:
    """The name of an image here, and what it is: `[NAME=]PLACE`."""
    name, equals, rest = what.partition("=")
    if equals and "/" not in name:
        return name, rest
    return os.path.basename(what.rstrip("/")), what


def users(names: tuple[str, ...]) -> tuple[int, ...]:
    """Their numbers.  Raises UsageError for one that there is not."""
    return tuple(_number("user", each, lambda name: pwd.getpwnam(name).pw_uid) for each in names)


def groups(names: tuple[str, ...]) -> tuple[int, ...]:
    """The same of groups."""
    return tuple(_number("group", each, lambda name: grp.getgrnam(name).gr_gid) for each in names)


def _number(what: str, name: str, find: Callable[[str], int]) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return find(name)
    except KeyError:
        raise UsageError(
            f"there is no {what} {name!r}",
            cause="this system does not know the name",
            cure="write a name of it, or a number",
        ) from None
