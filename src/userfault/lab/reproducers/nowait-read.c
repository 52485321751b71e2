// A read with RWF_NOWAIT of a blocking userfaultfd that has no message.
// Statements: 18
// 6.1 does not know the flag here (EOPNOTSUPP); 6.12 and later say EAGAIN.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *said(int result)
{
	return result < 0 ? strerrorname_np(errno) : "success";
}

int main(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffd_msg message;
	struct iovec vector = { &message, sizeof(message) };

	ioctl(fd, UFFDIO_API, &api);
	printf("reading with RWF_NOWAIT: %s\n", said(preadv2(fd, &vector, 1, -1, RWF_NOWAIT)));
}
