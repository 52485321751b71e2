/*
 * UFFDIO_COPY of a huge page fills another file, which took the place of its destination.
 *
 * As in copy_fills_what_took_its_place.c, but what is mapped, before and then, is hugetlb, of which
 * three pages of 2 MiB must be free.  Link with -pthread.  Exit code 0: the bytes are in the other
 * file; 1: they are not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE (2UL << 20)
#define HUGE_2MB (21U << 26) /* MFD_HUGE_2MB, which not every C library has */

static int uffd;
static char *area, *source;
static long copied;
static int code;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(2);
	}
}

static int registered(int fd, void *start)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)start, PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg);
}

static int opened(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	must(fd >= 0 && !ioctl(fd, UFFDIO_API, &api), "userfaultfd");
	return fd;
}

static void *copy(void *unused)
{
	struct uffdio_copy arg = {
		.dst = (uintptr_t)area, .src = (uintptr_t)source, .len = PAGE,
	};

	code = ioctl(uffd, UFFDIO_COPY, &arg) ? errno : 0;
	copied = arg.copy;
	return unused;
}

int main(void)
{
	struct uffdio_copy serve = { .len = PAGE };
	static char bytes[PAGE] = "meant for another file";
	int first = memfd_create("destination", MFD_HUGETLB | HUGE_2MB);
	int file = memfd_create("private to somebody else", MFD_HUGETLB | HUGE_2MB);
	const char *found;
	struct uffd_msg message;
	pthread_t thread;
	int below;

	must(first >= 0 && !ftruncate(first, PAGE), "memfd");
	must(file >= 0 && !ftruncate(file, PAGE), "memfd");
	area = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, first, 0);
	must(area != MAP_FAILED, "mmap");
	source = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uffd = opened();
	below = opened();
	must(!registered(uffd, area) && !registered(below, source), "register");
	must(!pthread_create(&thread, NULL, copy, NULL), "thread");
	must(read(below, &message, sizeof(message)) == sizeof(message), "read");
	/* The copy sleeps in its source, with no lock held. */
	must(mmap(area, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == area, "mmap");
	must(!registered(uffd, area), "register the file");
	serve.dst = (uintptr_t)source;
	serve.src = (uintptr_t)bytes;
	must(!ioctl(below, UFFDIO_COPY, &serve), "serve the source");
	pthread_join(thread, NULL);
	found = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0);
	must(found != MAP_FAILED, "mmap");
	printf("UFFDIO_COPY: %ld (errno %d); the file has \"%s\"\n", copied, code, found);
	return !(copied == (long)PAGE && !strcmp(found, bytes));
}
