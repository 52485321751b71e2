"""CRIU's page server, in all its roles.

* `listening`: sockets, and who is let in; `talk`: what is said with one peer;
* `sink`: pages that a dump sends become a snapshot; `giving`: pages that a restore asks for;
* `stream`, `tls`: bytes in and out, bounded in time.

It runs in threads of the process that stands before a daemon's family, or of one without a family:
it serves no fault, and a connection cannot be taken over by another process.
"""
