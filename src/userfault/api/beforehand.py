"""What our modules import where they need it, so that no pager's start waits for it.

A client has it from the beginning: it may change its root directory, drop the right to read where
Python lies, or be short of descriptors by the time that it is needed.
"""

import hashlib  # snapshot/working_sets/naming.py
import pathlib  # linux/room.py
import pickle  # source/spec.py, source/buffers.py
import shutil  # pager/drivers/processes/which_python.py
import sysconfig  # the same

__all__ = ["hashlib", "pathlib", "pickle", "shutil", "sysconfig"]
