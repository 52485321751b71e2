"""Other people's clients of a page-fault handler, posed as: to test a handler with, ours or theirs.

Written from the published text of each protocol.  Nothing of our own handler is in here, so that
an error of it is not made twice.
"""
