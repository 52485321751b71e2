"""Names of files in texts: on Linux a name is any bytes but / and NUL.

Python shows bytes that are not UTF-8 as lone surrogates (PEP 383), which can be written neither to
msgpack nor to a terminal.  A name that is used crosses to other processes as bytes (os.fsencode); a
name that is told goes through here.
"""

from __future__ import annotations

import os
import re
from typing import Any

_UNSENDABLE = re.compile("[\ud800-\udfff]")


def shown(name: Any) -> str:
    """A name as it is told: printable, in one line, what is neither as an escape.

    `name`: a path, or the number of a descriptor.

    >>> print(shown(b"caf\\xe9\\n.mem"))
    caf\\xe9\\n.mem
    """
    if isinstance(name, int):
        return f"descriptor {name}"
    text = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(name)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def sendable(text: str) -> str:
    """Any text with escapes for what UTF-8 does not have."""
    if text.isascii():
        return text
    return _UNSENDABLE.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
