// What does COPY say of a source that is no address of user space?
// Statements: 53
// 6.1 looks at the source only when it copies (EFAULT); 6.12 and later check it as they check the
// destination (EINVAL).
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
	unsigned long outside = (1ul << 63) - 4096; /* with four and with five levels of tables */
	struct uffdio_copy copy = { (unsigned long)memory, outside, 4096, 0, 0 };

	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_MISSING);
	printf("COPY from outside of user space: %s\n", said(ioctl(fd, UFFDIO_COPY, &copy)));
}
