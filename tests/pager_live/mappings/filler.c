/*
 * A preloaded library that touches memory which it does not own, as allocators and tracers do:
 * each large mapping when it is made and, with FILLER=again, whenever it was dropped.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define LARGE (2u << 20)

static void touch(char *at, size_t length, int protection)
{
	if (length < LARGE || !(protection & PROT_READ))
		return;
	for (size_t each = 0; each < length; each += 8 * 4096)
		(void)*(volatile char *)(at + each);
}

void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	static void *(*real)(void *, size_t, int, int, int, off_t);
	if (!real)
		real = dlsym(RTLD_NEXT, "mmap");
	char *made = real(at, length, protection, flags, fd, offset);
	int anonymous = flags & MAP_ANONYMOUS;
	if (made != MAP_FAILED && (anonymous || fd >= 0)) {
		if (anonymous)
			madvise(made, length, MADV_HUGEPAGE);
		touch(made, length, protection);
	}
	return made;
}

void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	return mmap(at, length, protection, flags, fd, offset);
}

int madvise(void *at, size_t length, int advice)
{
	static int (*real)(void *, size_t, int);
	if (!real)
		real = dlsym(RTLD_NEXT, "madvise");
	int answer = real(at, length, advice);
	if (!answer && advice == 24 /* MADV_DONTNEED_LOCKED */ && getenv("FILLER"))
		touch(at, length, PROT_READ);
	return answer;
}
