/* Preloaded into a program: on a signal, its memory is served from a file, as after a restore.
 *
 * The handler writes every private anonymous mapping to the file that BENCH_FREEZE_IMAGE names, one
 * after the other, registers them with a userfaultfd, and hands that and their addresses to the
 * socket BENCH_FREEZE_SOCKET.  When that has answered it drops them all.  So the program goes on as a
 * restored one: whatever it touches from here on is missing, and somebody else's to fill.
 *
 * It runs on a stack of its own, in memory that is not dropped, and calls the kernel itself: nothing
 * of the C library is touched between the copy and the drop.  Other threads have to be at rest.
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

enum { MOST = 1024, MAPS = 1 << 18, STACK = 1 << 16, SIGNAL = 44 };

struct region {
	uint64_t start, length;
};

static struct {
	struct region regions[MOST];
	char maps[MAPS];
	char stack[STACK];
	char image[256];
	struct sockaddr_un socket;
	uint64_t count;
} kept __attribute__((aligned(4096)));

static long call(long number, long a, long b, long c, long d)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = 0;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

static void must(long result)
{
	if (result < 0)
		call(SYS_exit_group, 97, 0, 0, 0);
}

static uint64_t hex(const char **at)
{
	uint64_t value = 0;

	for (;; ++*at) {
		char sign = **at;

		if (sign >= '0' && sign <= '9')
			value = value << 4 | (uint64_t)(sign - '0');
		else if (sign >= 'a' && sign <= 'f')
			value = value << 4 | (uint64_t)(sign - 'a' + 10);
		else
			return value;
	}
}

/* A line of maps: "start-end rw-p offset dev inode  name". */
static void look(const char *line, const char *end)
{
	const char *at = line;
	uint64_t start = hex(&at), stop = (++at, hex(&at));
	uint64_t here = (uint64_t)(uintptr_t)&kept;
	int spaces = 0;

	if (at[1] != 'r' || at[2] != 'w' || at[4] != 'p')
		return;
	for (; at < end && spaces < 4; at++)
		spaces += *at == ' ';
	if (at[0] != '0' || (at + 1 < end && at[1] != ' ' && at[1] != '\n')) /* the inode */
		return;
	for (; at < end && (*at == '0' || *at == ' '); at++)
		;
	if (at < end && *at == '[' && at[1] != 'h') /* the stack, the vdso; not the heap */
		return;
	if (here < stop && start < here + sizeof(kept))
		return;
	if (kept.count == MOST)
		must(-1);
	kept.regions[kept.count++] = (struct region){ start, stop - start };
}

static void read_maps(void)
{
	long fd = call(SYS_openat, AT_FDCWD, (long)"/proc/self/maps", O_RDONLY, 0), got, size = 0;

	must(fd);
	while ((got = call(SYS_read, fd, (long)kept.maps + size, MAPS - 1 - size, 0)) > 0)
		size += got;
	call(SYS_close, fd, 0, 0, 0);
	for (const char *line = kept.maps; line < kept.maps + size;) {
		const char *end = line;

		while (*end && *end != '\n')
			end++;
		look(line, end);
		line = end + 1;
	}
}

static void write_image(void)
{
	long fd = call(SYS_openat, AT_FDCWD, (long)kept.image, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	must(fd);
	for (uint64_t i = 0; i < kept.count; i++)
		for (uint64_t done = 0; done < kept.regions[i].length;) {
			long wrote = call(SYS_write, fd, (long)(kept.regions[i].start + done),
					  (long)(kept.regions[i].length - done), 0);

			must(wrote);
			done += (uint64_t)wrote;
		}
	call(SYS_close, fd, 0, 0, 0);
}

static void hand_over(long uffd)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)),
				  .cmsg_level = SOL_SOCKET,
				  .cmsg_type = SCM_RIGHTS } };
	struct iovec part = { kept.regions, kept.count * sizeof(struct region) };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	long fd = call(SYS_socket, AF_UNIX, SOCK_SEQPACKET, 0, 0);
	char answer;

	must(fd);
	*(int *)CMSG_DATA(&control.header) = (int)uffd;
	must(call(SYS_connect, fd, (long)&kept.socket, sizeof(kept.socket), 0));
	must(call(SYS_sendmsg, fd, (long)&message, 0, 0));
	must(call(SYS_read, fd, (long)&answer, 1, 0));
	call(SYS_close, fd, 0, 0, 0);
}

static void freeze(int number)
{
	struct uffdio_api api = { .api = UFFD_API };
	long uffd;

	(void)number;
	read_maps();
	write_image();
	uffd = call(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
	must(uffd);
	must(call(SYS_ioctl, uffd, UFFDIO_API, (long)&api, 0));
	for (uint64_t i = 0; i < kept.count; i++) {
		struct uffdio_register with = {
			.range = { kept.regions[i].start, kept.regions[i].length },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		call(SYS_madvise, (long)kept.regions[i].start, (long)kept.regions[i].length,
		     MADV_NOHUGEPAGE, 0);
		must(call(SYS_ioctl, uffd, UFFDIO_REGISTER, (long)&with, 0));
	}
	hand_over(uffd);
	for (uint64_t i = 0; i < kept.count; i++)
		must(call(SYS_madvise, (long)kept.regions[i].start, (long)kept.regions[i].length,
			  MADV_DONTNEED, 0));
	call(SYS_close, uffd, 0, 0, 0);
}

__attribute__((constructor)) static void begin(void)
{
	const char *image = getenv("BENCH_FREEZE_IMAGE"), *path = getenv("BENCH_FREEZE_SOCKET");
	stack_t stack = { .ss_sp = kept.stack, .ss_size = sizeof(kept.stack) };
	struct sigaction action = { .sa_handler = freeze, .sa_flags = SA_ONSTACK | SA_RESTART };

	if (!image || !path)
		return;
	strncpy(kept.image, image, sizeof(kept.image) - 1);
	kept.socket.sun_family = AF_UNIX;
	strncpy(kept.socket.sun_path, path, sizeof(kept.socket.sun_path) - 1);
	sigaltstack(&stack, NULL);
	sigaction(SIGNAL, &action, NULL);
	unsetenv("LD_PRELOAD"); /* not for the programs that it starts */
}
