// UFFDIO_POISON, and the signal that a touch of a poisoned page raises.
// Statements: 80, 90, 91, 92, 93, 94, 151, 152, 153
// It came with 6.6.
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

struct poison {
	struct uffdio_range range;
	__u64 mode, updated;
};

static void caught(int number)
{
	printf("POISON: success, a read raises signal %d\n", number);
	_exit(fflush(stdout));
}

int main(void)
{
	int fd = uffd(0);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct poison poison = { { (unsigned long)memory, 4096 }, 0, 0 };

	signal(SIGBUS, caught);
	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_MISSING);
	if (ioctl(fd, _IOWR(UFFDIO, 8, struct poison), &poison))
		printf("POISON: %s\n", strerrorname_np(errno));
	else
		printf("POISON: success, a read gives %d\n", *(volatile char *)memory);
}
