"""`userfault model`: the model kernel at a prompt, or a script for it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from userfault.check.prompt.session import Session
from userfault.cli.model import typed
from userfault.cli.model.conversation import Conversation
from userfault.cli.model.printing import JsonLines, Tables
from userfault.model.profiles import NEXT, Config, profile_named


@click.command()
@click.option(
    "--script", metavar="FILE", type=click.Path(path_type=Path), help="Run its lines (-: stdin)."
)
@click.option(
    "--profile", "--kernel", metavar="V", default=NEXT.name, help="As 6.18 (default: next)."
)
@click.option("--design", metavar="NAME", help="How its core asks memory types (default: ours).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def model(script: Path | None, profile: str, design: str | None, as_json: bool) -> int:
    """Give the model kernel one step after the other, and see what there is after each.

    `help` lists the steps.  Input that is no terminal is a script: it ends at its first mistake.
    Exit code 1: a rule of the model was broken; 2: a line could not be read.
    """
    config = Config(design=design) if design else None
    session = Session(profile_named(profile), config)
    screen = JsonLines(session) if as_json else Tables(session)
    conversation = Conversation(session, screen)
    if script is not None and str(script) != "-":
        with open(script, encoding="utf-8", errors="surrogateescape") as file:
            return conversation.script(file, str(script))
    if script is None and sys.stdin.isatty():
        return typed.talk(conversation)
    return conversation.script(sys.stdin, "<stdin>")
