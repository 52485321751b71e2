"""One driver a kernel: it does the I/O that the core decides."""
