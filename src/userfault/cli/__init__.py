"""The command `userfault`: thin.  Start at `main`; a file that has a command's name holds it.

A folder for what one comes for; what all commands write and end with is in `shared`.
"""
