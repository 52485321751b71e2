"""What a program meets: the typed protocol, system calls, descriptors of it, a guest's view."""
