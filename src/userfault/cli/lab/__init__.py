"""`lab`: other real kernels, booted in QEMU, and what is run on them."""
