// Can a range be registered again without WP, where WP was set?
// Statements: 29
// Up to 7.2 the modes are replaced, and the protection of pages stays behind; since 7.3 the kernel
// refuses to drop WP (or RWP).
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
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

static const char *said(int result)
{
	return result < 0 ? strerrorname_np(errno) : "success";
}

int main(void)
{
	int fd = uffd(0);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_WP);
	printf("registering for MISSING what is registered for WP: %s\n",
	       said(enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_MISSING)));
}
