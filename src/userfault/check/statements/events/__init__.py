"""Events: fork, mremap, madvise and munmap of registered memory."""
