// What does CONTINUE say beyond the end of a file of shmem?
// Statements: 85
// Since 7.1 the hook that looks a page up has one error for all that is not there: EINVAL became
// EFAULT.
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
	int fd = uffd(0), file = memfd_create("shmem", 0);
	char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	struct uffdio_continue page = { { (unsigned long)memory + 4096, 4096 }, 0, 0 };

	ftruncate(file, 4096);
	enroll(fd, memory, 8192, UFFDIO_REGISTER_MODE_MINOR);
	printf("CONTINUE beyond the end of the file: %s\n", said(ioctl(fd, UFFDIO_CONTINUE, &page)));
}
