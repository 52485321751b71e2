/* What a Cloud Hypervisor does that is restored by a daemon, written from the published protocol
 * (docs/snapshot_restore.md and vm-migration/src/protocol.rs of Cloud Hypervisor): it listens, takes
 * Start, MemoryFd, Config, the connection for page faults, State and Complete, registers its memory,
 * and asks for each page that its threads touch; every byte is compared with the image.
 *
 *   ch SOCKET IMAGE slots=GPA:SIZE:OFFSET[,...] [key=value]...
 *
 * slots      memory in the order of the image, with the offset in its memfd (in hexadecimal)
 * release=R  main: MISSING|MINOR and UFFDIO_CONTINUE; 53: MISSING, and only wakes
 * inline=1   no memfds are to come: private memory, and pages with the answers
 * walk=1     ask for every page, too, as the background walk does: also for those that are there
 * connections=N  for page faults, a thread each; the last one walks
 * threads=N  each touches every page, from another place on
 * drop=N     after a page was seen, punch a hole there with a chance of N in 100
 * write=N    after a page was seen, write to it with a chance of N in 100
 * bad=B      ask for what is wrong: gpa, length, command, huge; then wait for the end
 * refuse=N   answer command N with an error
 * stop=S     say that and wait for a line: state, asked, seen
 *
 * It says a word a line: `config BYTES`, `state BYTES`, the stops, `running` or `paused`, and
 * `right PAGES` or `wrong GPA` at the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
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
#include <unistd.h>

enum { SLOTS = 16, START = 1, CONFIG, STATE, MEMORY, COMPLETE, ABANDON, MEMORY_FD, PAUSED, FAULT };

static struct { uint64_t gpa, size, offset, image, first; int memory; uint8_t *at; } slot[SLOTS];
static int slots, threads = 1, drops, writes, inlined, walks, old, refuse;
static size_t page = 4096, length;
static unsigned seed = 1;
static const char *stop = "", *bad = "";
static const uint8_t *image;
static uint8_t *state;	/* of each page: 0 as the image, 1 dropped, 2 written */
static pthread_mutex_t held[1024];
static int uffd, faults[16], connections = 1, over[2];

static void fail(const char *what)
{
	fprintf(stderr, "ch: %s: %s\n", what, strerror(errno));
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
	stop = "";
	say("%s", where);
	if (!fgets(line, sizeof line, stdin))
		exit(0);
}

static void take(int fd, void *into, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t got = read(fd, (char *)into + done, size - done);
		if (got <= 0) {
			if (!got)
				say("hung up");
			fail("read");
		}
		done += got;
	}
}

static void give(int fd, const void *from, size_t size)
{
	if (write(fd, from, size) != (ssize_t)size)
		fail("write");
}

/* --- how it is restored ------------------------------------------------------------------------ */

struct header { uint16_t word; uint8_t own[6]; uint64_t length; };

static void respond(int control, int command)
{
	struct header answer = { .word = command == refuse ? 2 : 1 };
	give(control, &answer, sizeof answer);
	if (command == refuse)
		exit(0);
}

static void take_memory(int control)
{
	uint32_t number;
	char room[CMSG_SPACE(sizeof(int))];
	struct iovec data = { &number, sizeof number };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	if (recvmsg(control, &message, MSG_CMSG_CLOEXEC) != sizeof number || !CMSG_FIRSTHDR(&message))
		fail("MemoryFd");
	if (number >= (unsigned)slots || inlined)
		fail("MemoryFd that was not expected");
	memcpy(&slot[number].memory, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	struct stat about;
	if (fstat(slot[number].memory, &about) || (uint64_t)about.st_size < slot[number].offset + slot[number].size)
		fail("a memfd that is too short");
}

static void map_and_register(void)
{
	uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = inlined || old ? 0 : UFFD_FEATURE_MINOR_SHMEM };
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		fail("userfaultfd");
	for (int i = 0; i < slots; i++) {
		if (!inlined && slot[i].memory < 0)
			fail("a slot without memory");
		slot[i].at = mmap(0, slot[i].size, PROT_READ | PROT_WRITE,
			inlined ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, slot[i].memory, inlined ? 0 : slot[i].offset);
		struct uffdio_register asked = {
			.range = { (uintptr_t)slot[i].at, slot[i].size },
			.mode = UFFDIO_REGISTER_MODE_MISSING | (inlined || old ? 0 : UFFDIO_REGISTER_MODE_MINOR),
		};
		if (slot[i].at == MAP_FAILED || ioctl(uffd, UFFDIO_REGISTER, &asked))
			fail("UFFDIO_REGISTER");
	}
}

/* --- asking for pages -------------------------------------------------------------------------- */

static void wake(uint8_t *at)
{
	struct uffdio_range range = { (uintptr_t)at, page };
	if (ioctl(uffd, UFFDIO_WAKE, &range))
		fail("UFFDIO_WAKE");
}

static void ask(int faults, uint64_t gpa, uint8_t *at)
{
	struct { struct header header; uint64_t gpa, length; } request = { { FAULT, { 0 }, 16 }, gpa, page };
	struct header answer;
	uint8_t bytes[4096];
again:
	give(faults, &request, sizeof request);
	stopped("asked");
	take(faults, &answer, sizeof answer);
	if (answer.word != 1 || answer.length != (inlined ? page : 0))
		fail("an answer that is none");
	if (!inlined && old) {
		wake(at);
		return;
	}
	if (inlined) {
		take(faults, bytes, page);
		struct uffdio_copy copy = { .dst = (uintptr_t)at, .src = (uintptr_t)bytes, .len = page };
		if (!ioctl(uffd, UFFDIO_COPY, &copy))
			return;
	} else {
		struct uffdio_continue go = { .range = { (uintptr_t)at, page } };
		if (!ioctl(uffd, UFFDIO_CONTINUE, &go))
			return;
	}
	if (errno == EAGAIN)
		goto again;
	/* A hole that was punched between the answer and this: whoever touches it faults again. */
	if (errno != EEXIST && !(errno == EFAULT && drops))
		fail(inlined ? "UFFDIO_COPY" : "UFFDIO_CONTINUE");
	wake(at);
}

static void *serve(void *which)
{
	int number = (int)(uintptr_t)which, at = 0;
	uint64_t done = 0;
	for (;;) {
		struct uffd_msg message;
		struct pollfd wait[] = { { uffd, POLLIN, 0 }, { over[0], POLLIN, 0 } };
		int walking = walks && number == connections - 1 && at < slots;
		if (poll(wait, 2, walking ? 0 : -1) < 0)
			fail("poll");
		if (wait[0].revents && read(uffd, &message, sizeof message) == sizeof message) {
			uint8_t *address = (uint8_t *)(uintptr_t)(message.arg.pagefault.address & ~(page - 1));
			for (int i = 0; i < slots; i++)
				if (address >= slot[i].at && address < slot[i].at + slot[i].size)
					ask(faults[number], slot[i].gpa + (address - slot[i].at), address);
		} else if (walking) {
			ask(faults[number], slot[at].gpa + done, slot[at].at + done);
			if ((done += page) == slot[at].size)
				at++, done = 0;
		} else if (wait[1].revents) {
			return 0;
		}
	}
}

/* --- the guest --------------------------------------------------------------------------------- */

static uint64_t next(uint64_t *at)
{
	*at ^= *at << 13, *at ^= *at >> 7, *at ^= *at << 17;
	return *at;
}

static void touch(int which, uint64_t number, uint64_t *luck)
{
	uint8_t *at = slot[which].at + number * page;
	const uint8_t *right = image + slot[which].image + number * page;
	uint64_t all = slot[which].first + number;
	static const uint8_t zeros[4096];
	uint8_t written[4096];
	pthread_mutex_lock(&held[all % 1024]);
	memset(written, (int)(all * 7 + 3), page);
	const uint8_t *due = state[all] == 1 ? zeros : state[all] == 2 ? written : right;
	if (memcmp(at, due, page)) {
		say("wrong %llx", (unsigned long long)(slot[which].gpa + number * page));
		exit(1);
	}
	unsigned chance = next(luck) % 100;
	if (chance < (unsigned)drops) {
		if (fallocate(slot[which].memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				slot[which].offset + number * page, page))
			fail("fallocate");
		state[all] = 1;
	} else if (chance < (unsigned)(drops + writes)) {
		memcpy(at, written, page);
		state[all] = 2;
	}
	pthread_mutex_unlock(&held[all % 1024]);
}

static void *run(void *number)
{
	uint64_t luck = 88172645463325252ull + seed + (uintptr_t)number, pages = length / page;
	uint64_t step = 2 * (next(&luck) % pages) + 1, at = next(&luck) % pages;
	while (pages % 2 == 0 && step % 2 == 0)
		step++;
	for (uint64_t done = 0; done < 2 * pages; done++, at = (at + step) % pages) {
		for (int i = 0; i < slots; i++)
			if (at >= slot[i].first && at < slot[i].first + slot[i].size / page)
				touch(i, at - slot[i].first, &luck);
		if (done == pages / 2)
			stopped("seen");
	}
	return 0;
}

static void ask_wrongly(void)
{
	struct { struct header header; uint64_t gpa, length; } request = { { FAULT, { 0 }, 16 }, slot[0].gpa, page };
	if (!strcmp(bad, "gpa"))
		request.gpa = 1ull << 50;
	if (!strcmp(bad, "length"))
		request.length = 0;
	if (!strcmp(bad, "huge"))
		request.length = 2ull << 30;
	if (!strcmp(bad, "command"))
		request.header.word = 77;
	give(faults[0], &request, sizeof request);
	pause();
}

static void settings(int count, char **words)
{
	for (int i = 0; i < count; i++) {
		char *value = strchr(words[i], '=');
		if (!value)
			fail(words[i]);
		*value++ = 0;
		if (!strcmp(words[i], "slots"))
			for (char *one = strtok(value, ","); one; one = strtok(0, ",")) {
				unsigned long long gpa, size, offset;
				sscanf(one, "%llx:%llx:%llx", &gpa, &size, &offset);
				slot[slots].gpa = gpa, slot[slots].size = size, slot[slots].offset = offset;
				slot[slots].memory = -1, slot[slots].image = length, slot[slots].first = length / page;
				length += size, slots++;
			}
		else if (!strcmp(words[i], "release")) old = !strcmp(value, "53");
		else if (!strcmp(words[i], "inline")) inlined = atoi(value);
		else if (!strcmp(words[i], "walk")) walks = atoi(value);
		else if (!strcmp(words[i], "connections")) connections = atoi(value);
		else if (!strcmp(words[i], "threads")) threads = atoi(value);
		else if (!strcmp(words[i], "drop")) drops = atoi(value);
		else if (!strcmp(words[i], "write")) writes = atoi(value);
		else if (!strcmp(words[i], "seed")) seed = atoi(value);
		else if (!strcmp(words[i], "refuse")) refuse = atoi(value);
		else if (!strcmp(words[i], "bad")) bad = value;
		else if (!strcmp(words[i], "stop")) stop = value;
		else fail(words[i]);
	}
}

int main(int count, char **words)
{
	setvbuf(stdout, 0, _IOLBF, 0);
	settings(count - 3, words + 3);
	int file = open(words[2], O_RDONLY);
	image = mmap(0, length, PROT_READ, MAP_PRIVATE, file, 0);
	state = calloc(length / page, 1);
	for (int i = 0; i < 1024; i++)
		pthread_mutex_init(&held[i], 0);
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	strncpy(name.sun_path, words[1], sizeof name.sun_path - 1);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (file < 0 || image == MAP_FAILED || bind(listener, (void *)&name, sizeof name) || listen(listener, 16) || pipe(over))
		fail(words[1]);
	int control = accept(listener, 0, 0), paused = 0;
	pthread_t thread[64], server[16];
	for (int begun = 0, ends = 0; !ends;) {
		struct header request;
		take(control, &request, sizeof request);
		char *payload = request.word == MEMORY_FD ? 0 : malloc(request.length + 1);
		if (request.word == MEMORY_FD)
			take_memory(control);
		else if (request.length)
			take(control, payload, request.length);
		if (request.word == CONFIG)
			say("config %llu", (unsigned long long)request.length);
		if (request.word == STATE) {
			uint16_t role;
			say("state %llu", (unsigned long long)request.length);
			for (int i = 0; i < connections; i++) {
				faults[i] = accept(listener, 0, 0);
				take(faults[i], &role, sizeof role);
				if (role != 2)
					fail("a connection of another role");
			}
			stopped("state");
			if (*bad)
				ask_wrongly();
			map_and_register();
			for (long i = 0; i < connections; i++)
				if (pthread_create(&server[i], 0, serve, (void *)i))
					fail("pthread_create");
			begun = 1;
			uint64_t luck = 1;
			touch(0, 0, &luck); /* devices are restored: memory is touched before the answer */
		}
		if (request.word == COMPLETE || request.word == PAUSED)
			ends = begun, paused = request.word == PAUSED;
		free(payload);
		respond(control, request.word);
	}
	close(control);
	say(paused ? "paused" : "running");
	for (long i = 0; i < threads; i++)
		pthread_create(&thread[i], 0, run, (void *)i);
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], 0);
	give(over[1], "", 1);
	for (int i = 0; i < connections; i++) {
		pthread_join(server[i], 0);
		close(faults[i]);
	}
	say("right %zu", length / page);
	return 0;
}
