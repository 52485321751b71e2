"""The memory type of examples/modelled_memory_type.py, which is no part of the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from userfault.model.memtypes.ops import MemoryOps

EXAMPLE = Path(__file__).parents[3] / "examples" / "modelled_memory_type.py"


def driver() -> MemoryOps:
    """The example's table."""
    spec = importlib.util.spec_from_file_location("modelled_memory_type", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: MemoryOps = module.DRIVER
    return found
