"""Results as JSON: a schema with a version, then the values as they are.

Plain ASCII: whatever the values hold, no terminal acts on it and every stream takes it.  A name
that is not UTF-8 has lone surrogates in it, from which os.fsencode() makes the name again.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from userfault.cli.shared import terminal


def show(schema: str, values: Any) -> None:
    """Print an object: `schema`, and the fields of `values` (a struct or a dictionary)."""
    whole({"schema": schema, **msgspec.to_builtins(values)})


def whole(values: Any) -> None:
    """Print one object, a value a line."""
    plain = msgspec.to_builtins(values)
    try:
        terminal.say(msgspec.json.format(_encoded(plain), indent=2))
    except msgspec.DecodeError:  # a lone surrogate; json takes it, and twenty times as long
        terminal.say(json.dumps(plain, indent=2))


def line(values: Any) -> None:
    """Print one object in one line."""
    terminal.say(_encoded(msgspec.to_builtins(values)))


def _encoded(plain: Any) -> str:
    return json.dumps(plain, separators=(",", ":"))
