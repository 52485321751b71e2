/* A client of Firecracker's page-fault handshake, written from the published description of it
 * (docs/snapshotting/handling-page-faults-on-snapshot-resume.md of Firecracker): it maps memory of
 * its own, registers it, connects, sends regions and userfaultfd in one message, and then touches
 * what it has.  Every byte is compared with the image; what was dropped has to be zeros, and what
 * was written has to stay.
 *
 *   vm SOCKET IMAGE [key=value]...
 *
 * regions=N    memory in N pieces with room between them, in the order of their addresses
 * processes=N  the memory is shared, and so many processes map it, each with a userfaultfd
 * huge=1       hugetlb memory with pages of 2 MiB
 * form=F       both, kib (1.7 to 1.11), none (to 1.6), realkib (KiB, as documents say), wrapped
 * close=1      close the socket after sending, as releases to 1.11 do
 * piece=N      send N bytes at once
 * order=O      random, up or down; seed=N
 * threads=N    each touches every page, from another place on
 * drop=N       after a page was seen, drop it (MADV_DONTNEED) with a chance of N in 100
 * write=N      after a page was seen, write to it with a chance of N in 100
 * stop=S       say that and wait for a line: connected, half (of the message is sent), sent, seen
 *
 * It says a word a line: the stops, and `right PAGES` or `wrong ADDRESS` at the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REGIONS = 64 };

static struct { uint8_t *at; size_t size, offset; } region[REGIONS];
static int regions = 1, threads = 1, processes, memory = -1, drops, writes, huge, closes;
static size_t page = 4096, length, piece;
static unsigned seed = 1;
static int end[2];	/* open for writing in the first process alone */
static const char *form = "both", *order = "random", *stop = "";
static const uint8_t *image;
static uint8_t *state;	/* of each page: 0 as the image, 1 dropped, 2 written */
static pthread_mutex_t held[1024];

static void fail(const char *what)
{
	fprintf(stderr, "vm: %s: %s\n", what, strerror(errno));
	exit(3);
}

static void say(const char *format, ...)
{
	va_list rest;
	va_start(rest, format);
	vprintf(format, rest);
	va_end(rest);
	putchar('\n');
	fflush(stdout);
}

static void stopped(const char *where)
{
	char line[64];
	if (strcmp(stop, where))
		return;
	if (memory >= 0 && !processes) { /* the others wait until the first process is ready */
		(void)!read(end[0], line, 1);
		return;
	}
	say("%s", where);
	if (!fgets(line, sizeof line, stdin))
		exit(0);
}

static uint64_t next(uint64_t *at)
{
	*at ^= *at << 13, *at ^= *at >> 7, *at ^= *at << 17;
	return *at;
}

/* --- memory ------------------------------------------------------------------------------------ */

static void map_regions(void)
{
	size_t pages = length / page, done = 0;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (huge ? MAP_HUGETLB : 0);
	for (int i = 0; i < regions; i++) {
		size_t count = i + 1 < regions ? pages * (i + 1) / regions - done : pages - done;
		size_t size = count * page;
		/* Room for an unmapped stretch before it, and for whole pages. */
		uint8_t *room = mmap(0, size + 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (room == MAP_FAILED)
			fail("mmap");
		uint8_t *at = (uint8_t *)(((uintptr_t)room + 2 * page - 1) / page * page);
		if (memory >= 0)
			flags = MAP_SHARED;
		if (mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, memory, memory < 0 ? 0 : done * page) == MAP_FAILED)
			fail("mmap of guest memory");
		region[i].at = at, region[i].size = size, region[i].offset = done * page;
		done += count;
	}
}

static int register_regions(void)
{
	int fd = -1, device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device >= 0)
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fail("userfaultfd");
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	if (ioctl(fd, UFFDIO_API, &api))
		fail("UFFDIO_API");
	for (int i = 0; i < regions; i++) {
		struct uffdio_register asked = {
			.range = { (uintptr_t)region[i].at, region[i].size },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};
		if (ioctl(fd, UFFDIO_REGISTER, &asked))
			fail("UFFDIO_REGISTER");
	}
	return fd;
}

/* --- the handshake ------------------------------------------------------------------------------ */

static size_t message(char *text, size_t room)
{
	size_t at = 0;
	int by_address[REGIONS];
	for (int i = 0; i < regions; i++)
		by_address[i] = i;
	for (int i = 0; i < regions; i++)
		for (int j = i + 1; j < regions; j++)
			if (region[by_address[j]].at < region[by_address[i]].at) {
				int other = by_address[i];
				by_address[i] = by_address[j], by_address[j] = other;
			}
	at += snprintf(text + at, room - at, strcmp(form, "wrapped") ? "[" : "{\"mappings\":[");
	for (int k = 0; k < regions; k++) {
		int i = by_address[k];
		at += snprintf(text + at, room - at,
			       "%s{\"base_host_virt_addr\":%zu,\"size\":%zu,\"offset\":%zu",
			       k ? "," : "", (size_t)region[i].at, region[i].size, region[i].offset);
		if (!strcmp(form, "both") || !strcmp(form, "wrapped"))
			at += snprintf(text + at, room - at, ",\"page_size\":%zu", page);
		if (strcmp(form, "none"))
			at += snprintf(text + at, room - at, ",\"page_size_kib\":%zu",
				       strcmp(form, "realkib") ? page : page / 1024);
		at += snprintf(text + at, room - at, "}");
	}
	at += snprintf(text + at, room - at, strcmp(form, "wrapped") ? "]" : "]}");
	return at;
}

static void send_all(int channel, const char *text, size_t size, int fd)
{
	size_t at = 0;
	if (!piece && !strcmp(stop, "half"))
		piece = size / 2;
	while (at < size) {
		size_t now = piece && piece < size - at ? piece : size - at;
		struct iovec part = { (void *)(text + at), now };
		char room[CMSG_SPACE(sizeof fd)] = { 0 };
		struct msghdr sent = { .msg_iov = &part, .msg_iovlen = 1 };
		if (!at) {
			sent.msg_control = room, sent.msg_controllen = sizeof room;
			struct cmsghdr *with = CMSG_FIRSTHDR(&sent);
			with->cmsg_level = SOL_SOCKET, with->cmsg_type = SCM_RIGHTS;
			with->cmsg_len = CMSG_LEN(sizeof fd);
			memcpy(CMSG_DATA(with), &fd, sizeof fd);
		}
		ssize_t done = sendmsg(channel, &sent, MSG_NOSIGNAL);
		if (done < 0)
			fail("sendmsg");
		if (at < size / 2 && at + done >= size / 2)
			stopped("half");
		at += done;
	}
}

static int hand_over(const char *path, int fd)
{
	static char text[1 << 16];
	struct sockaddr_un where = { .sun_family = AF_UNIX };
	int channel = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strncpy(where.sun_path, path, sizeof where.sun_path - 1);
	if (connect(channel, (struct sockaddr *)&where, sizeof where))
		fail("connect");
	stopped("connected");
	send_all(channel, text, message(text, sizeof text), fd);
	if (closes)
		close(channel);
	return channel;
}

/* --- touching ----------------------------------------------------------------------------------- */

static uint8_t *address_of(size_t number)
{
	size_t offset = number * page;
	for (int i = 0; i < regions; i++)
		if (offset >= region[i].offset && offset < region[i].offset + region[i].size)
			return region[i].at + (offset - region[i].offset);
	abort();
}

static int right(const uint8_t *at, size_t number)
{
	static const uint8_t zeros[4096];
	for (size_t done = 0; done < page; done += 4096) {
		const uint8_t *expected = state[number] ? zeros : image + number * page + done;
		size_t skip = state[number] == 2 && !done ? sizeof number : 0;
		if (memcmp(at + done + skip, expected + skip, 4096 - skip))
			return 0;
	}
	return state[number] != 2 || !memcmp(at, &number, sizeof number);
}

static void touch(size_t number, uint64_t *chance)
{
	pthread_mutex_t *lock = &held[number % 1024];
	uint8_t *at = address_of(number);
	pthread_mutex_lock(lock);
	if (!right(at, number)) {
		say("wrong %p page %zu state %d", (void *)at, number, state[number]);
		exit(1);
	}
	if ((int)(next(chance) % 100) < drops) {
		if (madvise(at, page, MADV_DONTNEED))
			fail("madvise");
		state[number] = 1;
		if (!right(at, number)) {
			say("wrong after drop %p page %zu", (void *)at, number);
			exit(1);
		}
	}
	if ((int)(next(chance) % 100) < writes) {
		/* What is written is zeros behind its number: as if it had been dropped before. */
		memset(at, 0, page);
		memcpy(at, &number, sizeof number);
		state[number] = 2;
	}
	pthread_mutex_unlock(lock);
}

static void *walk(void *which)
{
	size_t count = length / page, *numbers = malloc(count * sizeof *numbers);
	uint64_t chance = seed * 2654435761u + (uintptr_t)which * 40503 + 1;
	for (size_t i = 0; i < count; i++)
		numbers[i] = strcmp(order, "down") ? i : count - 1 - i;
	if (!strcmp(order, "random"))
		for (size_t i = count - 1; i > 0; i--) {
			size_t j = next(&chance) % (i + 1), other = numbers[i];
			numbers[i] = numbers[j], numbers[j] = other;
		}
	for (size_t i = 0; i < count; i++)
		touch(numbers[i], &chance);
	free(numbers);
	return 0;
}

static void walk_all(void)
{
	pthread_t made[64];
	for (int i = 1; i < threads; i++)
		pthread_create(&made[i], 0, walk, (void *)(uintptr_t)i);
	walk(0);
	for (int i = 1; i < threads; i++)
		pthread_join(made[i], 0);
}

static void options(int count, char **texts)
{
	for (int i = 0; i < count; i++) {
		char *value = strchr(texts[i], '=');
		if (!value)
			exit(2);
		*value++ = 0;
		int number = atoi(value);
		if (!strcmp(texts[i], "regions")) regions = number;
		else if (!strcmp(texts[i], "processes")) processes = number;
		else if (!strcmp(texts[i], "threads")) threads = number;
		else if (!strcmp(texts[i], "drop")) drops = number;
		else if (!strcmp(texts[i], "write")) writes = number;
		else if (!strcmp(texts[i], "huge")) huge = number;
		else if (!strcmp(texts[i], "close")) closes = number;
		else if (!strcmp(texts[i], "piece")) piece = number;
		else if (!strcmp(texts[i], "seed")) seed = number;
		else if (!strcmp(texts[i], "form")) form = value;
		else if (!strcmp(texts[i], "order")) order = value;
		else if (!strcmp(texts[i], "stop")) stop = value;
		else exit(2);
	}
}

int main(int count, char **texts)
{
	struct stat found;
	if (count < 3)
		return 2;
	options(count - 3, texts + 3);
	int file = open(texts[2], O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &found))
		fail("image");
	page = huge ? 2 << 20 : 4096;
	length = (found.st_size + page - 1) / page * page;
	/* Behind the end of the file, to the end of a page of the memory, zeros are due. */
	uint8_t *whole = mmap(0, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (whole == MAP_FAILED || mmap(whole, found.st_size, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
		fail("mmap of the image");
	image = whole;
	state = calloc(length / page, 1);
	for (int i = 0; i < 1024; i++)
		pthread_mutex_init(&held[i], 0);
	if (processes && pipe(end))
		fail("pipe");
	if (processes) {
		memory = memfd_create("guest", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
		if (memory < 0 || ftruncate(memory, length))
			fail("memfd");
		for (int i = 1; i < processes; i++)
			if (!fork()) {
				processes = 0, seed += i;
				close(end[1]);
				break;
			}
	}
	map_regions();
	int fd = register_regions();
	hand_over(texts[1], fd);
	stopped("sent");
	walk_all();
	stopped("seen");
	walk_all();
	int status;
	char byte;
	if (memory >= 0) /* all of them live until the first one is ready */
		(void)!(processes ? close(end[1]) : read(end[0], &byte, 1));
	while (wait(&status) > 0)
		if (status)
			say("wrong in another process");
	if (memory < 0 || processes)
		say("right %zu", length / page);
	return 0;
}
