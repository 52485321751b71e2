"""Where a user's caches are (XDG Base Directory Specification)."""

from __future__ import annotations

import os
import pwd

OURS = "userfault"


def cache_home() -> str | None:
    """The folder of the user's caches: XDG_CACHE_HOME, else .cache in the home; None for neither.

    A user id that no passwd entry has, without HOME (a container run with one), has no home; and
    what is no absolute path says nothing: nothing is to be made where we happen to be.
    """
    told = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(told):
        return told
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return os.path.join(home, ".cache") if os.path.isabs(home) else None
