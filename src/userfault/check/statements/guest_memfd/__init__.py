"""guest_memfd: tracked by released kernels, and served by one that nobody has released."""
