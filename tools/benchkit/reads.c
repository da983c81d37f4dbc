// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reads DEVICE COUNT REPEATS: 4 KiB reads with O_DIRECT, one after the other.  Prints the
 * nanoseconds of CLOCK_MONOTONIC for each, a line a repeat; in a machine whose clock is driven
 * by instructions, these are instructions.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

int main(int argc, char **argv)
{
	long count, repeats, i, r;
	void *to;
	int fd;

	if (argc != 4)
		return 2;
	count = atol(argv[2]);
	repeats = atol(argv[3]);
	fd = open(argv[1], O_RDONLY | O_DIRECT);
	if (fd < 0 || posix_memalign(&to, 4096, 4096)) {
		perror(argv[1]);
		return 1;
	}
	for (r = -1; r < repeats; r++) {	/* the first one warms up */
		long long begin = now();

		for (i = 0; i < count; i++) {
			if (pread(fd, to, 4096, 0) != 4096) {
				perror("pread");
				return 1;
			}
		}
		if (r >= 0)
			printf("%.2f\n", (double)(now() - begin) / count);
	}
	return 0;
}
