// What is the huge zero page, and what does a write make of it?
// Statements: 214, 218
// A read of memory with MADV_HUGEPAGE maps it.  pagemap calls it the page of a file up to 7.2; a
// write to it gives one small page up to 6.12, and a huge page since (seen on 6.17).
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE (2ul << 20)

static uint64_t pagemap(void *address)
{
	uint64_t word = 0;

	pread(open("/proc/self/pagemap", O_RDONLY), &word, 8, (uintptr_t)address / 4096 * 8);
	return word;
}

int main(void)
{
	char *place = (char *)(1ul << 40);
	volatile char *memory = mmap(place, HUGE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	uint64_t word;

	madvise(place, HUGE, MADV_HUGEPAGE);
	(void)memory[4096];
	word = pagemap(place + 8192);
	if (!(word >> 63)) {
		printf("no huge zero page here\n");
		return 0;
	}
	memory[4096] = 'w';
	printf("the huge zero page: %s; after a write: %s\n",
	       word >> 61 & 1 ? "of a file" : "of no file",
	       pagemap(place + 8192) >> 56 & 1 ? "a huge page" : "a small page");
}
