"""The console script: the commands are loaded here, so that a limit met by that is told, too."""

from __future__ import annotations

import gc
import sys
from typing import NoReturn

from userfault.api import ahead
from userfault.pager.drivers.processes.lean import load_msgspec


def main() -> NoReturn:
    """Load the commands and run the one that was asked for."""
    if sys.argv[1:2] == ["exec"]:  # its pager comes up while it is loaded itself
        ahead.begin()
        gc.disable()  # until its program runs: hardly anything of what is loaded goes again
        load_msgspec()
    try:
        _main()
    finally:
        ahead.drop()


def _main() -> NoReturn:
    try:
        from userfault.cli.main import main as run  # noqa: PLC0415
    except (ImportError, MemoryError, OSError) as error:
        sys.stderr.write(
            f"userfault: cannot load its commands\n  cause: {str(error) or type(error).__name__}\n"
            "  cure:  raise `ulimit -v` or `ulimit -n`, where one is set; else install it anew\n"
        )
        sys.exit(3)
    run()


if __name__ == "__main__":
    main()
