"""What the commands write: the one way to standard output and standard error.

Names of files and processes, words of manifests, answers of servers are whatever somebody chose,
also the escape sequences of a terminal.  So every text goes through here (tables: `screen.py`), and
what is not printable is written as an escape.  A stream that cannot write a character (ASCII,
Latin-1) gets an escape for that too.
"""

from __future__ import annotations

import io
import logging
import sys

import click

from userfault.kernel.names import shown


def printable(text: str) -> str:
    """Text of one or more lines, with escapes for what a terminal would act on."""
    return text if text.isprintable() else "\n".join(map(shown, text.split("\n")))


def say(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Write a text, and the end of the line."""
    click.echo(printable(str(text)), err=err, nl=nl)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(f"userfault: {super().format(record)}")


def prepare() -> None:
    """Let the standard streams take every text, and warnings of the library come here too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")
    told = logging.StreamHandler()
    told.setFormatter(_Line())
    logging.getLogger("userfault").addHandler(told)


def show_usage(error: click.ClickException) -> None:
    """What click has to say of a command line."""
    text = io.StringIO()
    error.show(text)
    say(text.getvalue(), err=True, nl=False)
