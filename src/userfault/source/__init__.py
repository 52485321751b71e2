"""Where pages come from.

* `spec`: what a source is, as a value that can be sent to another process; and how whatever the
  user hands over becomes one, with `opening` (names), `objects` (open files) and `buffers`
  (arrays);
* `file`: reading a file or memfd, and noticing that it changed;
* `functions`: calling a function of the user's, in a worker;
* `pages`: asking a process of ours that gets pages from another host.

A source delivers exactly the bytes that were asked for, or raises `SourceError`.  Bytes beyond
its length are zero.
"""
