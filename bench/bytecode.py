"""The package as it is installed: with its modules compiled.

An installer compiles what it installs.  A checkout is compiled by whoever runs it first, and never
where PYTHONDONTWRITEBYTECODE is set; then every start of a pager and of a command compiles all that
it loads: 110 ms more CPU time for a pager (3.11), which no user waits for.
"""

from __future__ import annotations

import compileall
from pathlib import Path

import userfault


def compile_package() -> str:
    """Compile what is not; says how it is now, in a word."""
    folder = Path(userfault.__file__).parent
    if compileall.compile_dir(folder, quiet=2):
        return "compiled"
    return f"cannot be written to {folder}: each start compiles what it loads"
