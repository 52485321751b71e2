"""What is done at a daemon's door by another user."""

from __future__ import annotations

import socket

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


def knock_as_nobody(path: str) -> str:
    become_nobody()
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(path)
        return "let in" if channel.recv(1) else "closed"
