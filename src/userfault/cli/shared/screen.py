"""Tables and colours, which are Rich's own; the texts in them are written as `terminal.py` does it.

Apart from it: Rich takes 20 ms to load, which a command that draws nothing does not wait for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from userfault.cli.shared.terminal import printable


class Screen(Console):
    """Rich's console, for texts that may hold anything: they are neither markup nor emoji."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Before the layout, so that columns have the width of what is written."""
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Of whatever else there is, the text of each piece; not Rich's own control sequences."""
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield Segment(printable(segment.text), segment.style)
            else:
                yield segment
