// What does COPY say when there is no free huge page?
// Statements: 69
// Since 6.18 it is EEXIST, although no page is there: the page-table slot that the ioctl itself has
// just made is taken for one that a fault has filled.
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
	int fd = uffd(0), huge = MFD_HUGETLB | (21 << MAP_HUGE_SHIFT);
	int rw = PROT_READ | PROT_WRITE, file = memfd_create("huge", huge);
	char *source = mmap(NULL, 2 << 20, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *memory;
	struct uffdio_copy copy = { .src = (unsigned long)source, .len = 2 << 20 };

	memset(source, 's', 2 << 20);
	ftruncate(file, 2 << 20);
	memory = mmap(NULL, 2 << 20, rw, MAP_SHARED | MAP_NORESERVE, file, 0);
	copy.dst = (unsigned long)memory;
	enroll(fd, memory, 2 << 20, UFFDIO_REGISTER_MODE_MISSING);
	for (long length = 1l << 34; length >= 2 << 20; length /= 2) /* nothing is left free */
		while (mmap(NULL, length, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB
			    | (21 << MAP_HUGE_SHIFT), -1, 0) != MAP_FAILED)
			;
	printf("COPY with no free huge page: %s\n", said(ioctl(fd, UFFDIO_COPY, &copy)));
}
