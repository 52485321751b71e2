"""What a source is taken for: the bytes that a pager would serve."""

from __future__ import annotations

import os
from typing import Any

from userfault.source.spec import FileSpec, resolve


def taken(source: Any, **part: int) -> bytes:
    """The bytes of a source that has a descriptor."""
    resolved = resolve(source, **part)
    try:
        spec = resolved.spec
        assert isinstance(spec, FileSpec)
        return os.pread(resolved.fd, spec.length, spec.offset)
    finally:
        resolved.close()
