"""The command line of a Python process of ours that starts fast.

This module loads nothing of ours that takes time, so that a command can start its pager first, and
load what it needs itself meanwhile (`api.ahead`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from userfault.source import interpreter

SIGN = b"python"
_FIRST = bytes(16) + SIGN  # as a packet (`packets.py`)
# msgspec takes three names from typing_extensions where it can, which typing has on every Python
# that we run on; so it is not loaded, with inspect, ast and dis: 9 ms of 70 of a pager's start.
# And it loads two modules whose regular expressions take 2 ms to compile: `textwrap`, for JSON
# schemas, and with uuid `platform`, for the name of the kernel (up to Python 3.12).  Those that
# keep what stands for them here get the modules themselves once they ask for anything of them.
_LEAN = """
import os, sys
class Late(type(sys)):
    def __getattr__(self, name):
        import importlib
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)
late = {name: Late(name) for name in ("platform", "textwrap") if name not in sys.modules}
if "platform" in late:
    late["platform"].system = lambda: os.uname().sysname
sys.modules.update(late)
known = "typing_extensions" in sys.modules
if not known:
    sys.modules["typing_extensions"] = None
import msgspec
if not known:
    del sys.modules["typing_extensions"]
for name, module in late.items():
    if sys.modules.get(name) is module:
        del sys.modules[name]
"""
# What an image of a store is read with: whoever knows of one has it loaded before there is a
# family, all of which has it then.
READING = ("userfault.snapshot.serving.taking_up", "userfault.pager.drivers.mappings.unpackers")
_NEEDED = ("msgspec", "zstandard", "blake3", "pyroaring", "obstore")


def command(
    python: str,
    module: str,
    entry: str,
    channel: int,
    path: list[str],
    *,
    more: Sequence[str] = (),
    options: Sequence[str] | None = None,
    site: bool = False,
    sign: bool = False,
) -> list[str]:
    """Runs `module.entry(socket)`; `channel`: the socket's descriptor there.

    `path`: entries for sys.path.  `more`: modules that it loads, too.  `options`: of the
    interpreter; None: those of this one, isolated and without `site` (unless `site`), for a fast
    start.  `sign`: it sends `SIGN` before it loads anything of ours.
    """
    # What Python brings comes first, as it does with `site`: else each of its modules is looked for
    # in vain in our folders.  (Another Python has what it needs itself, and takes of ours what it
    # lacks.)  No collection while all is loaded, of which hardly anything goes again: 6 of 65 ms.
    program = (  # without "", which stands for wherever the client is
        f"import gc, sys; gc.disable()\n"
        f"sys.path[:] = [p for p in sys.path if p and p not in {path!r}] + {path!r}\n"
        f"import socket; channel = socket.socket(fileno={channel})\n"
        "channel.set_inheritable(False)\n"
        + (f"channel.send({_FIRST!r})\n" if sign else "")
        + _LEAN
        + "".join(f"import {each}\n" for each in more)
        + f"from {module} import {entry}; gc.enable(); {entry}(channel)"
    )
    if options is None:
        options = [*interpreter.options(), "-I", *([] if site else ["-S"])]
    return [python, *options, "-c", program]


def load_msgspec() -> None:
    """The same in this process, which has just begun."""
    exec(_LEAN, {})


def lean_path() -> list[str]:
    """Where our package and what it needs lie, for an interpreter that does not look for itself."""
    ours = os.path.abspath(__file__)
    for _ in range(5):  # userfault/pager/drivers/processes/lean.py
        ours = os.path.dirname(ours)
    found = [ours]
    for name in _NEEDED:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(os.path.dirname(os.path.dirname(os.path.abspath(spec.origin))))
    return list(dict.fromkeys(found))
