"""What can be packed: files, images of other people's tools, and live processes.

Each module here is one kind of input behind the protocol `PageInput` (`protocol.py`).
"""
