/*
 * The multiplexer of a lab guest: many agents behind one port of virtio-serial.
 *
 * The host sends frames and gets frames; each names a channel.  A channel is the socket of one
 * agent, so that nothing but this file knows that there is a machine in between: the bytes of a
 * channel are those of check/wire.py.  It runs as process 1 of the guest, so it also reaps what
 * its agents leave behind.
 *
 * A program ends with RESET: every channel is closed, every agent killed, and forked children that
 * have not called yet find nobody: the socket that they call has another name from then on.
 *
 * The format of a frame is in ../channels.py too.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum kind { SPAWN, DATA, CLOSE, RESET, PING, CALLED };

struct frame {
	uint32_t length;        /* bytes that follow */
	uint16_t channel;
	uint16_t kind;
};

enum {
	MAX_CHANNELS = 64,
	CALLERS = 0x8000,       /* channels from here on are those of forked children */
	PIECE = 64 << 10,
	MAX_FRAME = 32 << 20,
};

struct channel {
	int used;
	uint16_t number;
	int socket;
	pid_t pid;
	int ours;               /* we have started it */
	char *unsent;           /* what its socket did not take yet */
	size_t length;
};

static struct channel channels[MAX_CHANNELS];
static int port;
static int listener = -1;
static uint32_t generation;
static uint16_t callers;
static const char *agent;

static void die(const char *what)
{
	fprintf(stderr, "lab mux: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* --- Frames ------------------------------------------------------------------------------------ */

static char *outgoing(struct frame *frame)
{
	return (char *)(frame + 1);
}

/* One write for a frame: each costs a visit of the host. */
static void send_frame(struct frame *frame)
{
	char *place = (char *)frame;
	size_t left = sizeof(*frame) + frame->length;

	while (left) {
		ssize_t sent = write(port, place, left);

		if (sent < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (sent <= 0)
			die("port");
		place += sent;
		left -= sent;
	}
}

static void tell(enum kind kind, uint16_t channel, int32_t value)
{
	struct {
		struct frame head;
		int32_t value;
	} frame = {{sizeof(value), channel, kind}, value};

	send_frame(&frame.head);
}

/* --- Channels ---------------------------------------------------------------------------------- */

static struct channel *find(uint16_t number)
{
	int n;

	for (n = 0; n < MAX_CHANNELS; n++)
		if (channels[n].used && channels[n].number == number)
			return &channels[n];
	return NULL;
}

static struct channel *new_channel(uint16_t number, int socket, pid_t pid, int ours)
{
	int n;

	for (n = 0; n < MAX_CHANNELS; n++)
		if (!channels[n].used) {
			channels[n] = (struct channel){1, number, socket, pid, ours, NULL, 0};
			fcntl(socket, F_SETFL, O_NONBLOCK);
			return &channels[n];
		}
	return NULL;
}

static void drop(struct channel *channel)
{
	if (channel->ours)
		kill(channel->pid, SIGKILL);
	close(channel->socket);
	free(channel->unsent);
	channel->used = 0;
}

/* The agent has hung up: say so, with its status if it has one already. */
static void hung_up(struct channel *channel)
{
	int status = -1;

	if (channel->ours && waitpid(channel->pid, &status, WNOHANG) == channel->pid)
		channel->ours = 0;
	tell(CLOSE, channel->number, status);
	drop(channel);
}

static void flush(struct channel *channel)
{
	while (channel->length) {
		ssize_t sent = send(channel->socket, channel->unsent, channel->length, MSG_NOSIGNAL);

		if (sent < 0)
			return;         /* what has gone shows when it is read */
		channel->length -= sent;
		memmove(channel->unsent, channel->unsent + sent, channel->length);
	}
}

static void pass_on(struct channel *channel, const char *data, size_t length)
{
	channel->unsent = realloc(channel->unsent, channel->length + length);
	if (!channel->unsent)
		die("memory");
	memcpy(channel->unsent + channel->length, data, length);
	channel->length += length;
	flush(channel);
}

static void spawn(uint16_t number)
{
	char digits[12];
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		die("socketpair");
	snprintf(digits, sizeof(digits), "%d", pair[1]);
	pid = vfork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		char *const arguments[] = {(char *)agent, digits, NULL};

		/* 0, 1 and 2 of an agent are open on /dev/null; so is our own 0. */
		dup2(0, 1);
		dup2(0, 2);
		fcntl(pair[1], F_SETFD, 0);
		execv(agent, arguments);
		_exit(127);
	}
	close(pair[1]);
	if (!new_channel(number, pair[0], pid, 1)) {
		errno = EMFILE;
		die("channels");
	}
	tell(SPAWN, number, pid);
}

/* --- Forked children --------------------------------------------------------------------------- */

static void listen_anew(void)
{
	struct sockaddr_un address = {AF_UNIX, ""};
	int length;

	if (listener >= 0)
		close(listener);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* A name that begins with a zero byte is abstract. */
	length = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "userfault-lab-%u",
			  generation);
	if (bind(listener, (void *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + length) ||
	    listen(listener, 16))
		die("listener");
}

static void welcome(void)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	uint16_t number = CALLERS | (callers++ & (CALLERS - 1));

	if (socket < 0)
		return;
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) ||
	    !new_channel(number, socket, peer.pid, 0)) {
		close(socket);
		return;
	}
	tell(CALLED, number, peer.pid);
}

static void reset(void)
{
	int n;

	for (n = 0; n < MAX_CHANNELS; n++)
		if (channels[n].used && channels[n].number)     /* number 0 is the keeper's */
			drop(&channels[n]);
	generation++;
	listen_anew();
}

/* --- The loop ---------------------------------------------------------------------------------- */

static void obey(const struct frame *frame, const char *data)
{
	struct channel *channel = find(frame->channel);

	if (frame->kind == SPAWN)
		spawn(frame->channel);
	else if (frame->kind == RESET)
		reset();
	else if (frame->kind == PING)
		tell(PING, 0, 0);
	else if (frame->kind == DATA && channel)
		pass_on(channel, data, frame->length);
	else if (frame->kind == CLOSE && channel)
		drop(channel);
}

static void read_port(void)
{
	static char *received;
	static size_t length, room;
	size_t done = 0;
	ssize_t got;

	if (room < length + PIECE) {
		room = length + PIECE;
		received = realloc(received, room);
		if (!received)
			die("memory");
	}
	got = read(port, received + length, PIECE);
	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (got <= 0)
		die("the host is gone");
	length += got;
	while (length - done >= sizeof(struct frame)) {
		struct frame frame;

		memcpy(&frame, received + done, sizeof(frame));
		if (frame.length > MAX_FRAME) {
			errno = EBADMSG;
			die("frame");
		}
		if (length - done < sizeof(frame) + frame.length)
			break;
		obey(&frame, received + done + sizeof(frame));
		done += sizeof(frame) + frame.length;
	}
	length -= done;
	memmove(received, received + done, length);
}

static void read_channel(struct channel *channel)
{
	static struct frame *frame;
	ssize_t got;

	if (!frame)
		frame = malloc(sizeof(*frame) + PIECE);
	got = recv(channel->socket, outgoing(frame), PIECE, 0);
	if (got < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (got <= 0) {
		hung_up(channel);
		return;
	}
	*frame = (struct frame){got, channel->number, DATA};
	send_frame(frame);
}

/* Who left no other parent is ours; whose channel is open is reaped with it. */
static void reap(void)
{
	siginfo_t info;
	int n;

	for (;;) {
		info.si_pid = 0;
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) || !info.si_pid)
			return;
		for (n = 0; n < MAX_CHANNELS; n++)
			if (channels[n].used && channels[n].ours && channels[n].pid == info.si_pid)
				return;
		waitpid(info.si_pid, NULL, WNOHANG);
	}
}

/* argv: the port's device, the agent's program. */
int main(int argc, char **argv)
{
	static struct pollfd polled[MAX_CHANNELS + 2];
	static struct channel *whose[MAX_CHANNELS + 2];

	if (argc != 3)
		return 2;
	agent = argv[2];
	port = open(argv[1], O_RDWR | O_CLOEXEC);
	if (port < 0)
		die(argv[1]);
	signal(SIGPIPE, SIG_IGN);
	listen_anew();
	tell(PING, 0, 0);       /* the guest is up */
	for (;;) {
		int count = 2, n;

		polled[0] = (struct pollfd){port, POLLIN, 0};
		polled[1] = (struct pollfd){listener, POLLIN, 0};
		for (n = 0; n < MAX_CHANNELS; n++)
			if (channels[n].used) {
				short events = POLLIN | (channels[n].length ? POLLOUT : 0);

				whose[count] = &channels[n];
				polled[count++] = (struct pollfd){channels[n].socket, events, 0};
			}
		if (poll(polled, count, -1) < 0 && errno != EINTR)
			die("poll");
		for (n = 2; n < count; n++) {
			if (polled[n].revents & POLLOUT)
				flush(whose[n]);
			if (polled[n].revents & (POLLIN | POLLHUP | POLLERR))
				read_channel(whose[n]);
		}
		if (polled[1].revents)
			welcome();
		/* Last: it closes channels, and opens others in their places. */
		if (polled[0].revents)
			read_port();
		reap();
	}
}
