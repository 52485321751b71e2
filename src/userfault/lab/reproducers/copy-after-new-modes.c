// A COPY waits for its source; meanwhile its destination is registered with other modes.
// Statements: 159
// Since 7.1 that counts as a change of the mapping.
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

static struct uffdio_copy copy;
static int why;

static void *copier(void *fd)
{
	why = ioctl(*(int *)fd, UFFDIO_COPY, &copy) ? errno : 0;
	return NULL;
}

int main(void)
{
	int fd = uffd(0), watch = uffd(0), rw = PROT_READ | PROT_WRITE;
	char *memory = mmap(NULL, 4096, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *source = mmap(NULL, 4096, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;

	enroll(watch, source, 4096, UFFDIO_REGISTER_MODE_MISSING);
	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_MISSING);
	copy = (struct uffdio_copy){ (unsigned long)memory, (unsigned long)source, 4096, 0, 0 };
	pthread_create(&thread, NULL, copier, &fd);
	poll(&(struct pollfd){ watch, POLLIN, 0 }, 1, -1);
	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
	close(watch); /* the source becomes a page of zeroes */
	pthread_join(thread, NULL);
	printf("COPY to where WP was added while it waited: %s\n",
	       why ? strerrorname_np(why) : "success");
}
