/*
 * The multiplexer of a lab guest: it starts agents, and carries the sockets of those that have no
 * port of virtio-serial of their own.
 *
 * The host sends frames and gets frames; each names a channel.  A channel is the socket of one
 * agent, so that nothing but this file knows that there is a machine in between: the bytes of a
 * channel are those of check/live/wire.py.  It runs as process 1 of the guest, so it also reaps what
 * its agents leave behind.
 *
 * A round trip through here is a switch to this address space and one back, and an emulated
 * processor forgets its translations at each.  So an agent that the host starts gets a whole port
 * as its socket where one is free: then nothing of its channel but SPAWN and CLOSE comes by here.
 * Ports are used again.  What an agent or the host left in one is read and thrown away, at both
 * ends, up to a token that is made for each agent.
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

enum kind { SPAWN, DATA, CLOSE, RESET, PING, CALLED, BUSY };

struct frame {
	uint32_t length;        /* bytes that follow */
	uint16_t channel;
	uint16_t kind;
};

enum {
	TOKEN = 16,
	TOKEN_MS = 2000,        /* a port whose token does not come in this time is not used */
	MAX_CHANNELS = 256,
	CALLERS = 0x8000,       /* channels from here on are those of forked children */
	PIECE = 64 << 10,
	MAX_FRAME = 32 << 20,
};

struct spawn {                  /* what follows a SPAWN of the host's, where it has a free port */
	uint32_t port;
	char token[TOKEN];
};

struct channel {
	int used;
	uint16_t number;
	int socket;             /* -1: the agent has a port of its own, or is ending */
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
static sigset_t unblocked;
static const char *ports;       /* what the names of their devices begin with */
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
			if (socket >= 0)
				fcntl(socket, F_SETFL, O_NONBLOCK);
			return &channels[n];
		}
	return NULL;
}

/* An agent of ours is kept until it has ended: `reap_agents` tells the host. */
static void drop(struct channel *channel)
{
	if (channel->ours)
		kill(channel->pid, SIGKILL);
	if (channel->socket >= 0)
		close(channel->socket);
	free(channel->unsent);
	*channel = (struct channel){channel->ours, channel->number, -1, channel->pid,
				    channel->ours, NULL, 0};
}

/* The process at the other end is gone, or as good as that. */
static void hung_up(struct channel *channel)
{
	if (!channel->ours)
		tell(CLOSE, channel->number, -1);
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

/* Throw away what is left in a port, until its token has come; 0 if it did. */
static int await_token(int file, const char *token)
{
	static char seen[TOKEN + 4096];
	size_t length = 0;

	for (;;) {
		struct pollfd polled = {file, POLLIN, 0};
		ssize_t got;

		if (poll(&polled, 1, TOKEN_MS) <= 0)
			return -1;
		got = read(file, seen + length, sizeof(seen) - length);
		if (got <= 0)
			return -1;
		length += got;
		/* The host sends nothing after it. */
		if (length >= TOKEN && !memcmp(seen + length - TOKEN, token, TOKEN))
			return 0;
		if (length > TOKEN) {
			memmove(seen, seen + length - TOKEN, TOKEN);
			length = TOKEN;
		}
	}
}

/* The port, with nothing in it; -1 if it cannot be had: one process can have it open. */
static int open_port(const struct spawn *wish)
{
	char name[64];
	int file;

	snprintf(name, sizeof(name), "%s%u", ports, wish->port);
	file = open(name, O_RDWR | O_CLOEXEC);
	if (file < 0)
		return -1;
	if (await_token(file, wish->token) || write(file, wish->token, TOKEN) != TOKEN) {
		close(file);
		return -1;
	}
	return file;
}

static pid_t start_agent(int connection)
{
	char digits[12];
	pid_t pid;

	snprintf(digits, sizeof(digits), "%d", connection);
	pid = vfork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		char *const arguments[] = {(char *)agent, digits, NULL};

		/* 0, 1 and 2 of an agent are open on /dev/null; so is our own 0. */
		dup2(0, 1);
		dup2(0, 2);
		fcntl(connection, F_SETFD, 0);
		sigprocmask(SIG_SETMASK, &unblocked, NULL);
		execv(agent, arguments);
		_exit(127);
	}
	close(connection);
	return pid;
}

static void spawn(uint16_t number, const struct spawn *wish)
{
	int pair[2] = {-1, -1};
	pid_t pid;

	if (wish) {
		pair[1] = open_port(wish);
		if (pair[1] < 0)
			tell(BUSY, number, wish->port);
	}
	if (pair[1] < 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		die("socketpair");
	pid = start_agent(pair[1]);
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
	struct spawn wish;

	if (frame->kind == SPAWN && frame->length == sizeof(wish))
		spawn(frame->channel, memcpy(&wish, data, sizeof(wish)));
	else if (frame->kind == SPAWN)
		spawn(frame->channel, NULL);
	else if (frame->kind == RESET)
		reset();
	else if (frame->kind == PING)
		tell(PING, 0, 0);
	else if (frame->kind == DATA && channel && channel->socket >= 0)
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

/* The status is told when there is one; by then a port is free: no descriptor is left of it. */
static void reap_agents(void)
{
	int n, status;

	for (n = 0; n < MAX_CHANNELS; n++)
		if (channels[n].used && channels[n].ours && channels[n].socket < 0 &&
		    waitpid(channels[n].pid, &status, WNOHANG) == channels[n].pid) {
			tell(CLOSE, channels[n].number, status);
			channels[n].used = 0;
		}
}

/* Who left no other parent is ours; whose channel is open is reaped with it. */
static void reap(void)
{
	siginfo_t info;
	int n;

	reap_agents();
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

static void on_child(int signal) { (void)signal; }

/* Nothing hangs up when an agent with a port ends: SIGCHLD says so, and comes in ppoll alone. */
static void notice_children(void)
{
	struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_NOCLDSTOP};
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigprocmask(SIG_BLOCK, &blocked, &unblocked);
	sigaction(SIGCHLD, &action, NULL);
}

/* argv: what the names of ports begin with (the first is ours), the agent's program. */
int main(int argc, char **argv)
{
	static struct pollfd polled[MAX_CHANNELS + 2];
	static struct channel *whose[MAX_CHANNELS + 2];
	char name[64];

	if (argc != 3)
		return 2;
	ports = argv[1];
	agent = argv[2];
	snprintf(name, sizeof(name), "%s1", ports);
	port = open(name, O_RDWR | O_CLOEXEC);
	if (port < 0)
		die(name);
	signal(SIGPIPE, SIG_IGN);
	notice_children();
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
		if (ppoll(polled, count, NULL, &unblocked) < 0 && errno != EINTR)
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
