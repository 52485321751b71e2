/* The rival of `bench/serve.py`: one process that speaks Firecracker's handshake with any number of
 * clients, sleeps in epoll(7), and answers each fault by one UFFDIO_COPY of one page from a file
 * that it has mapped and populated.
 *
 *   epoll SOCKET IMAGE
 *
 * It knows one region a client, checks nothing, keeps nothing for a successor, and never lets go.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PAGE = 4096, MESSAGES = 64, EVENTS = 64 };

struct client {
	int uffd;
	uint64_t base, size, offset;
};

static char *image;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t field(const char *text, const char *name)
{
	const char *found = strstr(text, name);
	return found ? strtoull(found + strlen(name), 0, 10) : 0;
}

static void meet(int epoll, int listener)
{
	char text[4096] = { 0 }, room[CMSG_SPACE(sizeof(int))];
	struct iovec part = { text, sizeof text - 1 };
	struct msghdr came = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	int channel = accept4(listener, 0, 0, SOCK_CLOEXEC);
	if (channel < 0 || recvmsg(channel, &came, MSG_CMSG_CLOEXEC) <= 0 || !CMSG_FIRSTHDR(&came))
		fail("handshake");
	struct client *one = calloc(1, sizeof *one);
	memcpy(&one->uffd, CMSG_DATA(CMSG_FIRSTHDR(&came)), sizeof one->uffd);
	one->base = field(text, "\"base_host_virt_addr\":");
	one->size = field(text, "\"size\":");
	one->offset = field(text, "\"offset\":");
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = one };
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, one->uffd, &event))
		fail("epoll_ctl");
}

static void serve(struct client *one)
{
	static struct uffd_msg messages[MESSAGES];
	ssize_t size = read(one->uffd, messages, sizeof messages);
	for (ssize_t i = 0; i < size / (ssize_t)sizeof *messages; i++) {
		uint64_t at = messages[i].arg.pagefault.address & ~(uint64_t)(PAGE - 1);
		struct uffdio_copy copy = {
			.dst = at,
			.src = (uintptr_t)image + one->offset + (at - one->base),
			.len = PAGE,
		};
		if (ioctl(one->uffd, UFFDIO_COPY, &copy) && errno != EEXIST && errno != ESRCH && errno != ENOENT)
			fail("UFFDIO_COPY");
	}
}

int main(int count, char **texts)
{
	struct stat found;
	struct rlimit many = { 1 << 16, 1 << 16 };
	struct sockaddr_un where = { .sun_family = AF_UNIX };
	if (count != 3)
		return 2;
	setrlimit(RLIMIT_NOFILE, &many);
	int file = open(texts[2], O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &found))
		fail("image");
	image = mmap(0, found.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
	strncpy(where.sun_path, texts[1], sizeof where.sun_path - 1);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), epoll = epoll_create1(EPOLL_CLOEXEC);
	if (bind(listener, (struct sockaddr *)&where, sizeof where) || listen(listener, 4096))
		fail("listen");
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = 0 }, ready[EVENTS];
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int some = epoll_wait(epoll, ready, EVENTS, -1);
		for (int i = 0; i < some; i++)
			if (ready[i].data.ptr)
				serve(ready[i].data.ptr);
			else
				meet(epoll, listener);
	}
}
