"""The version of the package: below everything, so that nobody needs the package's face for it."""

from __future__ import annotations

__version__ = "0.1.0"
