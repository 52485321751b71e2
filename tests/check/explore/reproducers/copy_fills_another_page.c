/*
 * UFFDIO_COPY fills another page of a file than the one its destination showed when it began.
 *
 * The source of the copy is registered with a second userfaultfd, so that it stops in the middle
 * for as long as we like.  Meanwhile the destination, page 0 of a file, is mapped anew: the same
 * file from its page 0, but one page lower, so that the destination shows page 1.  With an
 * argument the mapping is only cut below the destination, which shows page 1 before and then.
 * Link with -pthread.  Exit code 0: page 1 was filled; 1: the copy ended with EAGAIN (with an
 * argument: since 7.1).
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

#define PAGE 4096

static int uffd;
static char *room, *destination, *source;
static long copied;
static int code;

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(2);
	}
}

static int registered(int fd, void *start, size_t length)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)start, length }, .mode = UFFDIO_REGISTER_MODE_MISSING,
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
		.dst = (uintptr_t)destination, .src = (uintptr_t)source, .len = PAGE,
	};

	code = ioctl(uffd, UFFDIO_COPY, &arg) ? errno : 0;
	copied = arg.copy;
	return unused;
}

static void show(int file, char *start, int pages)
{
	must(mmap(start, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == start,
	     "mmap");
	must(!registered(uffd, start, pages * PAGE), "register");
}

int main(int argc, char **argv)
{
	struct uffdio_copy serve = { .len = PAGE };
	char bytes[PAGE] = "the bytes", found[2][16] = { "", "" };
	int file = memfd_create("two pages", 0);
	struct uffd_msg message;
	pthread_t thread;
	int below;

	(void)argv;
	must(file >= 0 && !ftruncate(file, 2 * PAGE), "memfd");
	room = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	source = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	destination = room + PAGE;
	uffd = opened();
	below = opened();
	must(!registered(below, source, PAGE), "register the source");
	if (argc > 1)
		show(file, room, 2);
	else
		show(file, destination, 1);
	must(!pthread_create(&thread, NULL, copy, NULL), "thread");
	must(read(below, &message, sizeof(message)) == sizeof(message), "read");
	/* The copy sleeps in its source, with no lock held. */
	if (argc > 1)
		must(!munmap(room, PAGE), "munmap");
	else
		show(file, room, 2);
	serve.dst = (uintptr_t)source;
	serve.src = (uintptr_t)bytes;
	must(!ioctl(below, UFFDIO_COPY, &serve), "serve the source");
	pthread_join(thread, NULL);
	for (int page = 0; page < 2; page++)
		must(pread(file, found[page], 15, page * PAGE) > 0, "pread");
	printf("UFFDIO_COPY: %ld (errno %d); page 0 has \"%s\", page 1 \"%s\"\n", copied, code,
	       found[0], found[1]);
	return !(copied == PAGE && !*found[0] && !strcmp(found[1], bytes));
}
