// mremap moves two pages and leaves one of them: which length does the REMAP event tell?
// Statements: 211
// Up to 6.12 the length before, two pages, of which one has not moved; since 6.17 what has moved.
#define _GNU_SOURCE
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

static void *mover(void *memory)
{
	mremap(memory, 8192, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)memory + 16384);
	return NULL;
}

int main(void)
{
	int fd = uffd(UFFD_FEATURE_EVENT_REMAP);
	char *memory = mmap(NULL, 24576, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffd_msg event;
	pthread_t thread;

	enroll(fd, memory, 8192, UFFDIO_REGISTER_MODE_MISSING);
	pthread_create(&thread, NULL, mover, memory);
	poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1);
	read(fd, &event, sizeof(event));
	printf("REMAP of two pages that become one: %llu bytes\n", event.arg.remap.len);
	_exit(fflush(stdout));
}
