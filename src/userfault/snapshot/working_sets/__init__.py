"""Working sets at rest: where they are kept, how one becomes a course for a restore, and how a
recording becomes a set.

Come here for what a restored program will touch; what a pager does with it is in `pager/core`.
"""
