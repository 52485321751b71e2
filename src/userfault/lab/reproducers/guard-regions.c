// A guard region (MADV_GUARD_INSTALL) inside of a registered range.
// Statements: 149
// It came with 6.13: a touch raises SIGSEGV and no message.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int uffd(unsigned long features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	return fd >= 0 && ioctl(fd, UFFDIO_API, &api) ? -1 : fd;
}

static int enroll(int fd, void *start, unsigned long length, unsigned long mode)
{
	struct uffdio_register range = { { (unsigned long)start, length }, mode, 0 };

	return ioctl(fd, UFFDIO_REGISTER, &range);
}

static void caught(int number)
{
	printf("a touch of a guard in a registered range: signal %d\n", number);
	_exit(fflush(stdout));
}

int main(void)
{
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	signal(SIGSEGV, caught);
	enroll(uffd(0), memory, 4096, UFFDIO_REGISTER_MODE_MISSING);
	if (madvise(memory, 4096, 102 /* MADV_GUARD_INSTALL */))
		printf("MADV_GUARD_INSTALL: %s\n", strerrorname_np(errno));
	else
		printf("a touch of a guard gives %d\n", *(volatile char *)memory);
}
