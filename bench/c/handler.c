/* The rival: a page-fault handler in C, one process, as Firecracker's example and CRIU's have it.
 *
 * It sleeps in poll(2), reads messages, and answers each fault by one UFFDIO_COPY (or CONTINUE) of
 * one page from a source file that it has mapped and populated.  On request it fills everything
 * in pieces of a given size and says how long that took, first ioctl to last.
 *
 * Called with "read" it maps nothing: it reads each page by pread(2) first, into one buffer, as who
 * serves a file that is not in the page cache does without threads.
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket to the client.  Every request gets one reply.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHANNEL = 3, MESSAGES = 16, BUFFER = 1 << 20 };
enum operation { ASK, SERVE, FILL, FORGET };

struct request {
	uint64_t operation;
	uint64_t start;    /* SERVE: the client's address */
	uint64_t length;   /* SERVE: in bytes */
	uint64_t size;     /* FILL: bytes an ioctl */
	uint64_t prepared; /* SERVE: the page cache holds every page, so CONTINUE and no source */
};

struct reply {
	uint64_t faults;
	uint64_t ns;
};

static struct {
	struct request is;
	char *source;
	int uffd;
	int file;
	uint64_t faults;
} served = { .uffd = -1, .file = -1 };

static int reads; /* the source by pread(2) */
static char buffer[BUFFER] __attribute__((aligned(4096)));

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Where the bytes of a COPY lie. */
static uint64_t source_of(uint64_t offset, uint64_t length)
{
	if (!reads)
		return (uint64_t)(uintptr_t)served.source + offset;
	if (length > BUFFER || pread(served.file, buffer, length, (off_t)offset) != (ssize_t)length)
		fail("pread");
	return (uint64_t)(uintptr_t)buffer;
}

/* One ioctl: bytes done (EEXIST counts as one page, EAGAIN as what was done before it). */
static uint64_t fill(uint64_t offset, uint64_t length)
{
	int64_t done;
	int failed;

	if (served.is.prepared) {
		struct uffdio_continue map = { .range = { served.is.start + offset, length } };

		failed = ioctl(served.uffd, UFFDIO_CONTINUE, &map);
		done = map.mapped;
	} else {
		struct uffdio_copy copy = {
			.dst = served.is.start + offset,
			.src = source_of(offset, length),
			.len = length,
		};

		failed = ioctl(served.uffd, UFFDIO_COPY, &copy);
		done = copy.copy;
	}
	if (!failed)
		return length;
	if (done > 0)
		return (uint64_t)done;
	if (errno == EEXIST)
		return 4096;
	if (errno != EAGAIN)
		fail("fill");
	return 0;
}

static uint64_t fill_all(uint64_t size)
{
	uint64_t start = now_ns();

	for (uint64_t offset = 0; offset < served.is.length;) {
		uint64_t left = served.is.length - offset;

		offset += fill(offset, left < size ? left : size);
	}
	return now_ns() - start;
}

static void serve_faults(void)
{
	struct uffd_msg messages[MESSAGES];
	ssize_t count = read(served.uffd, messages, sizeof(messages));

	if (count < 0 && errno == EAGAIN)
		return;
	if (count < 0)
		fail("read");
	for (ssize_t i = 0; i < count / (ssize_t)sizeof(messages[0]); i++) {
		if (messages[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		served.faults++;
		while (!fill((messages[i].arg.pagefault.address & ~4095ull) - served.is.start, 4096))
			;
	}
}

static void serve(struct request *request, int *fds, int count)
{
	served.is = *request;
	served.faults = 0;
	served.uffd = fds[0];
	served.source = NULL;
	if (request->prepared)
		return;
	if (count != 2)
		fail("no source");
	if (reads) {
		served.file = fds[1];
		return;
	}
	served.source = mmap(NULL, request->length, PROT_READ, MAP_SHARED | MAP_POPULATE, fds[1], 0);
	if (served.source == MAP_FAILED)
		fail("mmap");
	close(fds[1]);
}

static void forget(void)
{
	if (served.source)
		munmap(served.source, served.is.length);
	if (served.file >= 0)
		close(served.file);
	close(served.uffd);
	served.uffd = served.file = -1;
}

static int receive(struct request *request, int *fds)
{
	char control[CMSG_SPACE(2 * sizeof(int))];
	struct iovec part = { request, sizeof(*request) };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;

	if (recvmsg(CHANNEL, &message, MSG_CMSG_CLOEXEC) != sizeof(*request))
		exit(0); /* the client has gone */
	header = CMSG_FIRSTHDR(&message);
	if (!header)
		return 0;
	memcpy(fds, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
	return (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
}

static void answer_request(void)
{
	struct request request;
	struct reply reply = { 0 };
	int fds[2];
	int count = receive(&request, fds);

	if (request.operation == SERVE)
		serve(&request, fds, count);
	else if (request.operation == FILL)
		reply.ns = fill_all(request.size);
	else if (request.operation == FORGET)
		forget();
	reply.faults = served.faults;
	if (write(CHANNEL, &reply, sizeof(reply)) != sizeof(reply))
		exit(0);
}

int main(int count, char **arguments)
{
	/* "poll": never sleep while something is served, so that no CPU has to be woken for a fault */
	int spins = count > 1 && !strcmp(arguments[1], "poll");

	reads = count > 1 && !strcmp(arguments[1], "read");
	for (;;) {
		struct pollfd waits[2] = {
			{ .fd = served.uffd, .events = POLLIN },
			{ .fd = CHANNEL, .events = POLLIN },
		};

		if (poll(waits, 2, spins && served.uffd >= 0 ? 0 : -1) < 0)
			fail("poll");
		if (waits[0].revents & POLLIN)
			serve_faults();
		if (waits[1].revents)
			answer_request();
	}
}
