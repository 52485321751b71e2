// Can one userfaultfd unregister what another one of the process has registered?
// Statements: 44
// Up to 6.12 it can; since 6.17 it is refused.
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
	int owner = uffd(0), other = uffd(0);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_range range = { (unsigned long)memory, 4096 };

	enroll(owner, memory, 4096, UFFDIO_REGISTER_MODE_MISSING);
	printf("UNREGISTER through another descriptor: %s\n",
	       said(ioctl(other, UFFDIO_UNREGISTER, &range)));
}
