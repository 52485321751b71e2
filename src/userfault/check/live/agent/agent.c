/*
 * The agent: the live process of a check.
 *
 * It runs what it is told over a socket: system calls with any arguments, loads and stores at any
 * address.  A signal that a touch raises is an answer, a call that blocks blocks one task alone.
 *
 *   leader   the first thread; starts the others, and does nothing else
 *   control  reads requests, hands them to tasks, answers what must never block (states, files,
 *            pages that are there) itself.  It has a descriptor table of its own, so that nothing
 *            it opens takes a number from the program under test, or keeps its files open.
 *   tasks    one operation at a time each; they write their replies themselves
 *
 * There is no C library in it: nothing but what is written here makes a system call, maps memory
 * or holds a lock, so it forks safely while its tasks run, it needs no file of the system it runs
 * on, and its address space is known.  x86-64 only.
 *
 * The formats of a request and of a reply are in ../wire.py too.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32; typedef int s32;
typedef unsigned long u64; typedef long s64;

#ifndef __x86_64__
#error "the agent knows the system calls of x86-64 only"
#endif

enum {
	SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_mmap = 9,
	SYS_rt_sigaction = 13, SYS_pread64 = 17, SYS_madvise = 28, SYS_socket = 41,
	SYS_connect = 42, SYS_fork = 57, SYS_exit = 60, SYS_unshare = 272, SYS_futex = 202,
	SYS_arch_prctl = 158, SYS_gettid = 186, SYS_exit_group = 231, SYS_dup3 = 292,
	SYS_close_range = 436,
};

enum { EINTR = 4, EBADMSG = 74, SIGBUS = 7, SIGUSR1 = 10, SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13 };

#define SA_SIGINFO 4ul
#define SA_RESTORER 0x04000000ul
#define SA_RESTART 0x10000000ul
#define SA_NODEFER 0x40000000ul

#define CLONE_FILES 0x400
/* VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS: what pthread_create passes. */
#define CLONE_TASK (0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x80000)

/* The socket's place: above every descriptor of a program, below the usual limit of 1024. */
#define CONNECTION 1000

/* Threads live here, far from the arena of the programs (kernel/calls.py). */
#define SLOTS 0x200000000000ul
#define SLOT_SIZE (64ul << 20)
#define STACK_TOP (512ul << 10)
#define SCRATCH_OFFSET (1ul << 20)
#define SCRATCH_SIZE (16ul << 20)
#define UNSENT_SIZE (1ul << 20)         /* of answers that wait for others */
#define MAX_TASKS 64

#define CONTROL 0xffff
#define PAGE 4096
#define PAGE_PRESENT (1ul << 63)        /* in pagemap */

enum op {
	OP_SYSCALL, OP_READ, OP_WRITE, OP_FORK, OP_TASK, OP_STATES, OP_FILE, OP_BUFFER, OP_SURVEY,
};
enum kind { REPLY, HELLO };

struct request {
	u32 length;     /* bytes that follow; they go to the start of the scratch buffer */
	u16 task;
	u16 op;
	u64 number;     /* of the system call; address of a touch */
	u64 args[6];
	u32 relative;   /* bit n: args[n] is an offset into the scratch buffer */
	u32 answer;     /* bytes of the scratch buffer to send back */
};

struct reply {
	u32 length;     /* bytes that follow */
	u16 task;
	u16 kind;
	s64 value;      /* of the system call, or minus errno; bytes touched */
	u64 address;    /* si_addr */
	s32 signal;     /* si_signo, 0 without a signal */
	s32 code;       /* si_code */
	u32 lsb;        /* si_addr_lsb */
	u32 reserved;
};

struct state {          /* one for each task in the answer to OP_STATES */
	u32 busy;
	char wchan[60];
};

struct thread {
	struct thread *self;    /* at %fs:0 */
	s32 tid;
	u32 index;
	volatile u32 busy;      /* a futex: 1 from the request until the operation is done */
	u64 unsent;             /* bytes of answers, before the scratch buffer */
	struct request request;
	struct {
		s32 signal, code;
		u64 address;
		u32 lsb;
	} caught;
};

static struct thread *tasks[MAX_TASKS];
static volatile u32 task_count;
static u64 next_slot;
static volatile u32 wanted;     /* a futex: 1 while the leader is asked for a task */
static volatile u32 writing;    /* a futex: the lock of the socket's writing side */
/* What control has read and not looked at yet. */
static u8 inbox[64 << 10];
static u64 inbox_start, inbox_end;

/* --- System calls and threads ------------------------------------------------------------------ */

static s64 syscall6(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	s64 value;

	__asm__ volatile("syscall"
			 : "=a"(value)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return value;
}

#define call0(n) syscall6(n, 0, 0, 0, 0, 0, 0)
#define call1(n, a) syscall6(n, (u64)(a), 0, 0, 0, 0, 0)
#define call2(n, a, b) syscall6(n, (u64)(a), (u64)(b), 0, 0, 0, 0)
#define call3(n, a, b, c) syscall6(n, (u64)(a), (u64)(b), (u64)(c), 0, 0, 0)
#define call4(n, a, b, c, d) syscall6(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), 0, 0)

static void die(int code)
{
	for (;;)
		call1(SYS_exit_group, code);
}

/*
 * start_thread(flags, stack, thread, function): clone(2) with `thread` as thread pointer; the new
 * thread runs function(thread) on `stack`.
 *
 * touch(to, from, length, user): copies in aligned words of `user` (one of the two addresses), and
 * in bytes at its ragged ends.  A signal inside ends it at once (see `on_fault`); the value is how
 * many bytes were copied.
 */
s64 start_thread(u64 flags, void *stack, struct thread *thread, void (*function)(struct thread *));
u64 touch(void *to, const void *from, u64 length, u64 user);
extern char touch_end[];
void restore(void);

__asm__(".text\n"
	".globl _start\n"
	"_start:\n"
	"	mov	%rsp, %rdi\n"
	"	and	$-16, %rsp\n"
	"	call	begin\n"

	".globl restore\n"
	"restore:\n"
	"	mov	$15, %eax\n"            /* rt_sigreturn */
	"	syscall\n"

	".globl start_thread\n"
	"start_thread:\n"
	"	sub	$16, %rsi\n"
	"	mov	%rcx, (%rsi)\n"
	"	mov	%rdx, 8(%rsi)\n"
	"	mov	%rdx, %r8\n"            /* thread pointer */
	"	xor	%edx, %edx\n"
	"	xor	%r10d, %r10d\n"
	"	mov	$56, %eax\n"            /* clone */
	"	syscall\n"
	"	test	%rax, %rax\n"
	"	jz	1f\n"
	"	ret\n"
	"1:	pop	%rax\n"
	"	pop	%rdi\n"
	"	call	*%rax\n"

	".globl touch\n"
	".globl touch_end\n"
	"touch:\n"
	"	xor	%eax, %eax\n"
	"1:	mov	%rdx, %r8\n"
	"	sub	%rax, %r8\n"            /* what is left */
	"	jz	touch_end\n"
	"	lea	(%rcx, %rax), %r9\n"
	"	test	$7, %r9\n"
	"	jnz	2f\n"
	"	cmp	$8, %r8\n"
	"	jb	2f\n"
	"	mov	(%rsi, %rax), %r8\n"
	"	mov	%r8, (%rdi, %rax)\n"
	"	add	$8, %rax\n"
	"	jmp	1b\n"
	"2:	mov	(%rsi, %rax), %r8b\n"
	"	mov	%r8b, (%rdi, %rax)\n"
	"	inc	%rax\n"
	"	jmp	1b\n"
	"touch_end:\n"
	"	ret\n");

static struct thread *current(void)
{
	struct thread *thread;

	__asm__("mov %%fs:0, %0" : "=r"(thread));
	return thread;
}

static u8 *scratch(struct thread *thread)
{
	return (u8 *)((u64)thread & ~(SLOT_SIZE - 1)) + SCRATCH_OFFSET + thread->unsent;
}

static void sleep_while(volatile u32 *word, u32 value)
{
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value)
		call4(SYS_futex, word, 128 /* WAIT, private */, value, 0);
}

static void set_and_wake(volatile u32 *word, u32 value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	call3(SYS_futex, word, 129 /* WAKE, private */, 1);
}

/* --- Signals ----------------------------------------------------------------------------------- */

struct siginfo {
	s32 signo, error, code, pad;
	u64 address;
	u16 lsb;
};

#define RIP 21          /* its place in struct ucontext, in words */

static void set_action(int signal, void *handler, u64 flags)
{
	u64 action[] = {(u64)handler, flags | SA_RESTORER, (u64)restore, 0 /* mask */};

	call4(SYS_rt_sigaction, signal, action, 0, 8);
}

/* A touch ends here; any other fault is the agent's own, and ends it as it would end any process. */
static void on_fault(int signal, struct siginfo *info, u64 *context)
{
	struct thread *thread = current();

	if (context[RIP] < (u64)touch || context[RIP] >= (u64)touch_end) {
		set_action(signal, 0, 0);
		return;
	}
	thread->caught.signal = info->signo;
	thread->caught.code = info->code;
	thread->caught.address = info->address;
	/* BUS_MCEERR_AR and BUS_MCEERR_AO alone carry it */
	thread->caught.lsb = signal == SIGBUS && (info->code == 4 || info->code == 5) ? info->lsb : 0;
	context[RIP] = (u64)touch_end;
}

static void on_interruption(int signal) { (void)signal; }

/* --- The socket -------------------------------------------------------------------------------- */

static void send(struct thread *thread)
{
	u64 left = thread->unsent;
	u8 *place = scratch(thread) - left - sizeof(struct reply);

	thread->unsent = 0;
	while (__atomic_exchange_n(&writing, 1, __ATOMIC_ACQUIRE))
		sleep_while(&writing, 1);
	while (left) {
		s64 sent = call3(SYS_write, CONNECTION, place, left);

		if (sent == -EINTR)
			continue;
		if (sent <= 0)
			die(3);
		place += sent;
		left -= sent;
	}
	set_and_wake(&writing, 0);
}

static void read_all(u8 *place, u64 length)
{
	while (length) {
		u64 piece = inbox_end - inbox_start;
		u8 *from;

		if (!piece) {
			s64 got;

			if (current()->unsent)
				send(current());
			got = call3(SYS_read, CONNECTION, inbox, sizeof(inbox));
			if (got <= 0 && got != -EINTR)
				die(got ? 3 : 0);
			inbox_start = 0;
			inbox_end = got > 0 ? got : 0;
			continue;
		}
		piece = piece < length ? piece : length;
		length -= piece;
		from = inbox + inbox_start;
		inbox_start += piece;
		__asm__ volatile("rep movsb" : "+D"(place), "+S"(from), "+c"(piece) : : "memory");
	}
}

/*
 * The reply is put right before the scratch buffer, so that one write sends both.  The answers of
 * control to requests that came together go together: each write costs a wake-up.
 */
static void send_reply(struct thread *thread, enum kind kind, u32 index, s64 value, u32 length)
{
	*((struct reply *)scratch(thread) - 1) = (struct reply){
		length, index, kind, value, thread->caught.address,
		thread->caught.signal, thread->caught.code, thread->caught.lsb, 0,
	};
	thread->caught.signal = 0;
	thread->unsent += sizeof(struct reply) + length;
	if (index != CONTROL || thread->unsent > UNSENT_SIZE)
		send(thread);
}

/* --- Tasks ------------------------------------------------------------------------------------- */

static void lead(void);

static s64 run_syscall(struct thread *thread, struct request *request)
{
	u64 args[6];
	int n;

	for (n = 0; n < 6; n++)
		args[n] = request->args[n] +
			  (request->relative >> n & 1 ? (u64)scratch(thread) : 0);
	return syscall6(request->number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

static s64 run_touch(struct thread *thread, struct request *request)
{
	u64 length = request->op == OP_READ ? request->args[0] : request->length;
	u8 *mine = scratch(thread), *theirs = (u8 *)request->number;

	thread->caught.signal = thread->caught.code = thread->caught.lsb = 0;
	thread->caught.address = 0;
	if (request->op == OP_READ)
		return touch(mine, theirs, length, request->number);
	return touch(theirs, mine, length, request->number);
}

/* The child is an agent too: it calls the socket whose address the request carries. */
static s64 run_fork(struct thread *thread, struct request *request)
{
	s64 pid = call0(SYS_fork);
	s64 socket;

	if (pid)
		return pid;
	socket = call3(SYS_socket, 1 /* AF_UNIX */, 1 /* SOCK_STREAM */, 0);
	if (socket < 0 || call3(SYS_connect, socket, scratch(thread), request->length) < 0)
		die(4);
	call3(SYS_dup3, socket, CONNECTION, 0);
	call1(SYS_close, socket);
	lead();
	return 0;
}

static void task_main(struct thread *thread)
{
	struct request *request = &thread->request;

	thread->tid = call0(SYS_gettid);
	send_reply(thread, HELLO, thread->index, thread->tid, 0);
	for (;;) {
		s64 value = -EBADMSG;
		u32 answer = 0;

		sleep_while(&thread->busy, 0);
		if (request->op == OP_SYSCALL) {
			value = run_syscall(thread, request);
			answer = request->answer;
		} else if (request->op == OP_READ || request->op == OP_WRITE) {
			value = run_touch(thread, request);
			answer = request->op == OP_READ ? value : 0;
		} else if (request->op == OP_FORK) {
			value = run_fork(thread, request);
		} else if (request->op == OP_BUFFER) {
			value = (s64)scratch(thread);
		}
		/* Before the reply: the next request may come at once. */
		__atomic_store_n(&thread->busy, 0, __ATOMIC_RELEASE);
		send_reply(thread, REPLY, thread->index, value, answer);
	}
}

static void new_thread(u32 index, void (*function)(struct thread *))
{
	u64 base = SLOTS + next_slot++ * SLOT_SIZE;
	u64 mapped = SCRATCH_OFFSET + SCRATCH_SIZE + UNSENT_SIZE + PAGE;
	struct thread *thread;

	/* read and write; private, fixed, anonymous, without a reservation */
	if (syscall6(SYS_mmap, base, mapped, 3, 0x4032, -1, 0) < 0)
		die(5);
	/* a huge page would be cleared for every thread */
	call3(SYS_madvise, base, mapped, 15 /* NOHUGEPAGE */);
	thread = (struct thread *)(base + STACK_TOP);
	thread->self = thread;
	thread->index = index;
	if (index != CONTROL) { /* before it runs: it can be told something once it says hello */
		tasks[index] = thread;
		task_count = index + 1;
	}
	if (start_thread(CLONE_TASK, (void *)(base + STACK_TOP), thread, function) < 0)
		die(5);
}

/* --- Control ----------------------------------------------------------------------------------- */

static char *append(char *to, const char *text)
{
	while (*text)
		*to++ = *text++;
	*to = 0;
	return to;
}

static char *append_number(char *to, u32 number)
{
	char digit[] = {'0' + number % 10, 0};

	return append(number < 10 ? to : append_number(to, number / 10), digit);
}

/* Where each busy task sleeps, by the kernel's name for it ("0": it runs). */
static u32 put_states(struct thread *control)
{
	struct state *state = (struct state *)scratch(control);
	u32 n;

	for (n = 0; n < task_count; n++, state++) {
		char path[64];
		s64 file, got = 0;

		state->busy = __atomic_load_n(&tasks[n]->busy, __ATOMIC_ACQUIRE);
		if (state->busy) {
			append(append_number(append(path, "/proc/self/task/"), tasks[n]->tid), "/wchan");
			file = call3(SYS_open, path, 0, 0);
			if (file >= 0) {
				got = call3(SYS_read, file, state->wchan, sizeof(state->wchan) - 1);
				call1(SYS_close, file);
			}
		}
		state->wchan[got > 0 ? got : 0] = 0;
	}
	return task_count * sizeof(*state);
}

/* The file whose name is in the scratch buffer: all of it, or `args[1]` bytes from `args[0]` on. */
static s64 put_file(struct thread *control, struct request *request)
{
	u8 *place = scratch(control);
	u64 offset = request->args[0];
	u64 wish = request->args[1] ? request->args[1] : SCRATCH_SIZE;
	u64 done = 0;
	s64 got = 1;
	s64 file = call3(SYS_open, place, 0, 0);

	if (file < 0)
		return file;
	while (done < wish && got > 0) {
		/* /proc/sys answers a larger read with ENOMEM */
		u64 piece = wish - done < 65536 ? wish - done : 65536;

		got = call4(SYS_pread64, file, place + done, piece, offset + done);
		if (got > 0)
			done += got;
	}
	call1(SYS_close, file);
	return got < 0 && !done ? got : (s64)done;
}

/*
 * pagemap's words of args[1] pages, args[0] bytes apart; then args[4] bytes from args[3] on of each
 * page that is there: of the bits args[2] its word has the first one alone.
 */
static s64 put_survey(struct thread *control, struct request *request)
{
	u64 *words = (u64 *)scratch(control), *args = request->args, page = request->number, n;
	u64 at_once = args[0] == PAGE ? args[1] : 1;
	u8 *place = (u8 *)(words + args[1]);
	s64 file = call3(SYS_open, "/proc/self/pagemap", 0, 0);

	for (n = 0; n < args[1] && file >= 0; n++, page += args[0]) {
		if (n % at_once == 0)
			call4(SYS_pread64, file, words + n, 8 * at_once, page / PAGE * 8);
		if ((words[n] & args[2]) == PAGE_PRESENT)
			place += touch(place, (u8 *)page + args[3], args[4], page + args[3]);
	}
	call1(SYS_close, file);
	return file < 0 ? file : place - (u8 *)words;
}

static void control_main(struct thread *thread)
{
	struct request *request = &thread->request;

	call1(SYS_unshare, CLONE_FILES);
	call3(SYS_close_range, 0, CONNECTION - 1, 0);
	call3(SYS_close_range, CONNECTION + 1, ~0u, 0);
	set_and_wake(&wanted, 1);
	for (;;) {
		struct thread *task = thread;
		s64 value = 0, answer = 0;

		read_all((u8 *)request, sizeof(*request));
		if (request->task != CONTROL) {
			if (request->task >= task_count)
				die(6);
			task = tasks[request->task];
			task->request = *request;
		}
		if (request->length > SCRATCH_SIZE)
			die(6);
		read_all(scratch(task), request->length);
		if (request->task != CONTROL || request->op == OP_TASK) {
			/* It answers itself: what was asked, or hello. */
			set_and_wake(request->op == OP_TASK ? &wanted : &task->busy, 1);
			continue;
		}
		if (request->op == OP_STATES) {
			answer = put_states(thread);
		} else if (request->op == OP_FILE || request->op == OP_SURVEY) {
			value = request->op == OP_FILE ? put_file(thread, request) :
							 put_survey(thread, request);
			answer = value > 0 ? value : 0;
		} else {
			value = run_syscall(thread, request);
			answer = request->answer;
		}
		send_reply(thread, REPLY, CONTROL, value, answer);
	}
}

/* --- The leader -------------------------------------------------------------------------------- */

/* What control starts would share control's descriptors: so tasks are started here. */
static void lead(void)
{
	writing = wanted = task_count = 0;
	inbox_start = inbox_end = 0;
	new_thread(CONTROL, control_main);
	for (;;) {
		sleep_while(&wanted, 0);
		if (task_count == MAX_TASKS)
			die(7);
		wanted = 0;
		new_thread(task_count, task_main);
	}
}

/* argv[1] is the number of the socket; 0, 1 and 2 are open on /dev/null. */
void begin(u64 *stack)
{
	const char *digits = (const char *)stack[2];
	static struct thread leader;
	u64 fd = 0;

	if (stack[0] != 2)
		die(2);
	while (*digits >= '0' && *digits <= '9')
		fd = fd * 10 + (*digits++ - '0');
	leader.self = &leader;
	call2(SYS_arch_prctl, 0x1002 /* ARCH_SET_FS */, &leader);
	if (call3(SYS_dup3, fd, CONNECTION, 0) < 0)
		die(8);
	call3(SYS_close_range, 3, CONNECTION - 1, 0);
	call3(SYS_close_range, CONNECTION + 1, ~0u, 0);
	set_action(SIGSEGV, (void *)on_fault, SA_SIGINFO | SA_NODEFER);
	set_action(SIGBUS, (void *)on_fault, SA_SIGINFO | SA_NODEFER);
	set_action(SIGUSR1, (void *)on_interruption, 0);
	set_action(SIGUSR2, (void *)on_interruption, SA_RESTART);
	set_action(SIGPIPE, (void *)1 /* SIG_IGN */, 0);
	lead();
}
