// A mapping is cut in two while MADV_DONTNEED of it waits for its event to be read: do both halves go?
// Statements: 212
// Up to 6.12 the second one stays, though the event has named it; since 6.17 it goes, after an event
// of its own.
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

static void *dropper(void *memory)
{
	madvise(memory, 8192, MADV_DONTNEED);
	return NULL;
}

int main(void)
{
	int fd = uffd(UFFD_FEATURE_EVENT_REMOVE), events = 0;
	char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffd_msg event;
	unsigned char there = 0;
	pthread_t thread;

	memset(memory, 1, 8192);
	enroll(fd, memory, 8192, UFFDIO_REGISTER_MODE_WP);
	pthread_create(&thread, NULL, dropper, memory);
	poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1);
	madvise(memory, 4096, MADV_SEQUENTIAL);
	while (pthread_tryjoin_np(thread, NULL))
		events += read(fd, &event, sizeof(event)) > 0;
	mincore(memory + 4096, 4096, &there);
	printf("the second half: %s, after %d events\n", there & 1 ? "stays" : "goes", events);
}
