"""The prompt itself: a terminal, with completion and history."""

from __future__ import annotations

import contextlib
import readline
from collections.abc import Iterator
from pathlib import Path

from userfault.check.prompt.language import Mistake
from userfault.cli.model.conversation import Conversation
from userfault.cli.shared import errors, terminal
from userfault.linux import homes

_KEPT = 1000  # lines


def talk(conversation: Conversation) -> int:
    """Line by line, until the end of the input; the exit code.

    Ctrl-C drops the line that is being typed.
    """
    prompt = f"{conversation.name}> "
    terminal.say(f"The model of Linux {conversation.name}: `help` lists the steps.")
    with _history(), _completion(conversation):
        while True:
            try:
                line = input(prompt)
            except EOFError:
                terminal.say()
                break
            except KeyboardInterrupt:
                terminal.say()
                continue
            try:
                if not conversation.line(line):
                    break
            except Mistake as error:
                terminal.say(" " * (len(prompt) + error.column - 1) + "^" * error.length, err=True)
                errors.show(error)
    return errors.FAILED if conversation.broken else 0


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """The lines of before, and these from now on, where there is a place for them."""
    home = homes.cache_home()
    path = Path(home) / homes.OURS / "model.history" if home is not None else None
    readline.set_history_length(_KEPT)
    if path is not None:
        with contextlib.suppress(OSError):
            readline.read_history_file(path)
    try:
        yield
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                readline.write_history_file(path)


@contextlib.contextmanager
def _completion(conversation: Conversation) -> Iterator[None]:
    """Tab completes words."""
    found: list[str] = []

    def complete(text: str, number: int) -> str | None:
        if number == 0:
            before = readline.get_line_buffer()[: readline.get_begidx()]
            found[:] = [word for word in conversation.completions(before) if word.startswith(text)]
        return found[number] if number < len(found) else None

    before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(complete)
    readline.set_completer_delims(" \t;|")
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])
