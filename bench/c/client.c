/* What the process that faults does, for both sides: touch pages in a given order, with clocks.
 *
 * Loaded by ctypes.CDLL, whose calls release Python's global lock: a fault waits in plain C.
 */
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
	return hash ^ (hash >> 29);
}

/* Read 8 bytes of each of `count` pages, in the order given; a hash of what was read.
 * `out_ns`: how long each touch took, or NULL for no clocks in between. */
uint64_t bench_touch(const char *base, const uint32_t *order, uint64_t count, uint64_t stride,
		     uint64_t *out_ns)
{
	uint64_t hash = 0, start;

	for (uint64_t i = 0; i < count; i++) {
		const volatile uint64_t *word =
			(const volatile uint64_t *)(base + (uint64_t)order[i] * stride);

		if (out_ns) {
			start = now_ns();
			hash = mix(hash, *word);
			out_ns[i] = now_ns() - start;
		} else {
			hash = mix(hash, *word);
		}
	}
	return hash;
}

/* A hash of every word of [base, base + bytes). */
uint64_t bench_hash(const char *base, uint64_t bytes)
{
	uint64_t hash = 0;

	for (uint64_t at = 0; at < bytes; at += 8)
		hash = mix(hash, *(const volatile uint64_t *)(base + at));
	return hash;
}

/* Words that differ everywhere, so that a page served from the wrong place is seen. */
void bench_paint(char *base, uint64_t bytes, uint64_t seed)
{
	for (uint64_t at = 0; at < bytes; at += 8) {
		uint64_t word = mix(seed, at + 1);

		memcpy(base + at, &word, 8);
	}
}

/* The bare loop: fill runs of pages, (first page, count) each, by one ioctl each.  0 if all worked. */
int bench_fill(int uffd, char *base, const char *source, const uint32_t *runs, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		struct uffdio_copy copy = {
			.dst = (uint64_t)(uintptr_t)base + ((uint64_t)runs[2 * i] << 12),
			.src = (uint64_t)(uintptr_t)source + ((uint64_t)runs[2 * i] << 12),
			.len = (uint64_t)runs[2 * i + 1] << 12,
		};

		if (ioctl(uffd, UFFDIO_COPY, &copy))
			return -1;
	}
	return 0;
}

/* Have the host give this machine memory: touch and free `bytes` of it.  0 if there was none. */
int bench_warm(uint64_t bytes)
{
	char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (base == MAP_FAILED)
		return 0;
	madvise(base, bytes, MADV_NOHUGEPAGE); /* the same 4 KiB pages that fills will take */
	for (uint64_t at = 0; at < bytes; at += 4096)
		base[at] = 1;
	munmap(base, bytes);
	return 1;
}
