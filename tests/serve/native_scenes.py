"""What is done at a daemon's door by another user."""

from __future__ import annotations

import userfault
from helpers.child import become_nobody


def connect_as_nobody(path: str) -> str:
    connect = userfault.connect  # it is loaded now
    become_nobody()
    try:
        connect(path).close()
    except userfault.PagerError as error:
        return str(error)
    return "let in"
