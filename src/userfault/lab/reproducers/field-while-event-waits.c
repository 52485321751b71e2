// A fill fails with EAGAIN because an event waits to be read: what is in its result field?
// Statements: 136
// 6.1 leaves the field as it was; 6.12 and later store -EAGAIN, as the manual says.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
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

static void *dropper(void *memory)
{
	madvise(memory, 4096, MADV_DONTNEED);
	return NULL;
}

int main(void)
{
	int fd = uffd(UFFD_FEATURE_EVENT_REMOVE);
	char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_zeropage zero = { { (unsigned long)memory + 4096, 4096 }, 0, 77 };
	pthread_t thread;
	int result;

	enroll(fd, memory, 8192, UFFDIO_REGISTER_MODE_MISSING);
	pthread_create(&thread, NULL, dropper, memory);
	poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1);
	result = ioctl(fd, UFFDIO_ZEROPAGE, &zero);
	printf("ZEROPAGE while an event waits: %s, the field is %s\n", said(result),
	       zero.zeropage == 77 ? "untouched" : zero.zeropage == -EAGAIN ? "-EAGAIN" : "other");
	_exit(fflush(stdout));
}
