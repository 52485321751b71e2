/*
 * UFFDIO_COPY fills a mapping that took the place of its destination while the source was read.
 *
 * The source of the copy is registered with a second userfaultfd, so that it stops in the middle
 * for as long as we like.  Meanwhile the destination, anonymous memory, is replaced by a shared
 * file and registered.  Link with -pthread.  Exit code 0: the bytes are in the file (to 6.18);
 * 1: the copy ended with EAGAIN (since 7.1).
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
	char bytes[PAGE] = "meant for anonymous memory", found[32] = "";
	int file = memfd_create("private to somebody else", 0);
	struct uffd_msg message;
	pthread_t thread;
	int below;

	must(file >= 0 && !ftruncate(file, PAGE), "memfd");
	area = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
	must(pread(file, found, sizeof(found) - 1, 0) > 0, "pread");
	printf("UFFDIO_COPY: %ld (errno %d); the file has \"%s\"\n", copied, code, found);
	return !(copied == PAGE && !strcmp(found, bytes));
}
