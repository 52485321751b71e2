// What does the handshake offer?
// Statements: 7
// Bits 13 to 16 are WP_UNPOPULATED (6.4), POISON (6.6), WP_ASYNC (6.7), MOVE (6.8); 17 and 18 are
// RWP and RWP_ASYNC (7.3), which brought the general ioctl SET_MODE (bit 10), too.
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

int main(void)
{
	struct uffdio_api api = { .api = UFFD_API };

	ioctl(syscall(SYS_userfaultfd, O_CLOEXEC), UFFDIO_API, &api);
	printf("features %#llx, ioctls %#llx\n", (unsigned long long)api.features,
	       (unsigned long long)api.ioctls);
}
