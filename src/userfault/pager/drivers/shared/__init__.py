"""One copy of a snapshot for all restores of a user: who keeps it, and how pagers fill it.

Come here for what several pagers have in common.  `copy`: a copy as a worker sees it, filled page
by page.  `keeper`: the process that holds copies.  `asking`: how it is found and asked, by whoever
maps a copy.  `words`: what is said there.  docs/sharing.md has the whole of it.
"""
