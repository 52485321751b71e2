// What does MADV_COLLAPSE say of a registered range of which a page is missing?
// Statements: 223
// It came with 6.1, and fills no hole; it tells so by EINVAL on 6.1, and by EBUSY later (seen on
// 6.12).
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

#define HUGE (2ul << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

int main(void)
{
	char *memory = mmap((void *)(1ul << 40), HUGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .range = { (unsigned long)memory, HUGE },
					 .mode = UFFDIO_REGISTER_MODE_MISSING };
	int failed;

	memory[0] = 'w';
	ioctl(fd, UFFDIO_API, &api);
	ioctl(fd, UFFDIO_REGISTER, &range);
	failed = madvise(memory, HUGE, MADV_COLLAPSE);
	printf("MADV_COLLAPSE over missing pages: %s\n", failed ? strerrorname_np(errno) : "success");
}
