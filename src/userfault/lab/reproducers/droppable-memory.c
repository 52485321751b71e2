// Can MAP_DROPPABLE memory be registered?
// Statements: 34
// It came with 6.11; 6.12 let it be registered by mistake, 6.17 and later refuse it.
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
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, 8 /* MAP_DROPPABLE */ | MAP_ANONYMOUS,
			    -1, 0);

	if (memory == MAP_FAILED)
		printf("MAP_DROPPABLE: mmap says %s\n", strerrorname_np(errno));
	else
		printf("registering MAP_DROPPABLE memory: %s\n",
		       said(enroll(uffd(0), memory, 4096, UFFDIO_REGISTER_MODE_MISSING)));
}
