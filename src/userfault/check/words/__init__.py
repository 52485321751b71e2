"""What statements are written in, on any kernel: the thread that makes the calls, its memory, its
userfaultfd, what several statements begin with, and how one ends.
"""
