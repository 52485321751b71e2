"""What stands behind an error of a file that may not grow: a limit of the process, or the disk's.

Python ignores SIGXFSZ, so that a write beyond the limit is EFBIG (write(2), getrlimit(2)); memory
in a memfd counts as a file (measured on 6.18).
"""

from __future__ import annotations

import errno
import os
import resource

from userfault.kernel.explain import Explanation


def growing(error: OSError) -> Explanation:
    """Cause and cure of an error of a file that was to grow.  The cure is empty where it is not
    about how large files may be."""
    cause = os.strerror(error.errno or 0)
    if error.errno != errno.EFBIG:
        return Explanation(cause, "")
    try:
        most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    except OSError:  # a profile refuses it
        return Explanation(cause, "raise `ulimit -f`")
    if most == resource.RLIM_INFINITY:
        return Explanation(f"{cause}: the file system has none that large", "name another place")
    return Explanation(
        f"{cause}: this process may write files of {most} bytes at most (`ulimit -f`)",
        "raise `ulimit -f` in the shell that starts it",
    )
