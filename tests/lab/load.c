// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Load for the kernel tests, faster than Python.
 *
 *   load out NODE NEXUS SEED    for each number on standard input: that many PR OUTs, flat
 *                               out; answers with a line when they are done.  NEXUS (1..255)
 *                               is the top byte of every key; below it a counter, so that the
 *                               order of REGISTERs can be told from the keys alone.
 *   load in NODE COUNT ACTION   PR IN
 *   load legacy NODE COUNT      RESERVE(6)
 *   load read NODE COUNT N      COUNT reads of 4 KiB, O_DIRECT, by N threads
 *
 * Ends with one line of "name=count" for each outcome.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum outcome { GOOD, CONFLICT, ATTENTION, OTHER };
static const char *const outcomes[] = { "good", "conflict", "attention", "other" };
static unsigned long registers[4], others[4];
static const char *node;

static enum outcome send_command(int fd, unsigned char *cdb, int length, int direction, void *data,
				 unsigned size)
{
	unsigned char sense[64] = {};
	struct sg_io_hdr hdr = {
		.interface_id = 'S', .dxfer_direction = direction, .cmd_len = length,
		.mx_sb_len = sizeof(sense), .dxfer_len = size, .dxferp = data,
		.cmdp = cdb, .sbp = sense, .timeout = 60000,
	};

	int failed = ioctl(fd, SG_IO, &hdr) ? errno : 0;

	if (!failed && (!hdr.host_status || hdr.status == 0x18))
		switch (hdr.status) {
		case 0:
			return GOOD;
		case 0x18:
			return CONFLICT;
		case 2:
			if ((sense[0] & 0x7f) == 0x70 && (sense[2] & 0xf) == 6)
				return ATTENTION;
		}
	fprintf(stderr, "%s: %02x %02x: errno %d, status %02x, host %02x, sense %02x %02x/%02x\n",
		node, cdb[0], cdb[1], failed, hdr.status, hdr.host_status, sense[2], sense[12],
		sense[13]);
	return OTHER;
}

static enum outcome pr_out(int fd, int action, int type, unsigned long key, unsigned long sa_key)
{
	unsigned char cdb[10] = { 0x5f, action, type, 0, 0, 0, 0, 0, 24 }, list[24] = {};
	int i;

	for (i = 0; i < 8; i++) {
		list[i] = key >> (56 - 8 * i);
		list[8 + i] = sa_key >> (56 - 8 * i);
	}
	return send_command(fd, cdb, sizeof(cdb), SG_DXFER_TO_DEV, list, sizeof(list));
}

static int out(int fd, unsigned long nexus, unsigned seed)
{
	unsigned long key = nexus << 56, next = key;
	char line[64];
	long n;

	while (fgets(line, sizeof(line), stdin)) {
		for (n = atol(line); n > 0; n--) {
			int dice = rand_r(&seed) % 8;

			if (dice < 6) {
				enum outcome end = pr_out(fd, 6, 0, 0, ++next);

				registers[end]++;
				if (end == GOOD)
					key = next;
			} else {
				/* RESERVE, RELEASE; WRITE EXCLUSIVE, REGISTRANTS ONLY */
				others[pr_out(fd, dice - 5, 5, key, 0)]++;
			}
		}
		puts("done");
		fflush(stdout);
	}
	return 0;
}

static void in(int fd, long count, int action)
{
	unsigned char cdb[10] = { 0x5e, action, 0, 0, 0, 0, 0, 0x20, 0 }, reply[0x2000];

	while (count--)
		others[send_command(fd, cdb, sizeof(cdb), SG_DXFER_FROM_DEV, reply, sizeof(reply))]++;
}

static void legacy(int fd, long count)
{
	unsigned char cdb[6] = { 0x16 };

	while (count--)
		others[send_command(fd, cdb, sizeof(cdb), SG_DXFER_NONE, 0, 0)]++;
}

static long each;

static void *reader(void *unused)
{
	int fd = open(node, O_RDONLY | O_DIRECT);
	unsigned long found[4] = {};
	void *page;
	long n;
	int i;

	if (fd < 0 || posix_memalign(&page, 4096, 4096))
		exit(1);
	for (n = 0; n < each; n++) {
		ssize_t got = pread(fd, page, 4096, 0);

		found[got == 4096 ? GOOD : got < 0 && errno == EBADE ? CONFLICT : OTHER]++;
	}
	for (i = 0; i < 4; i++)
		__sync_fetch_and_add(&others[i], found[i]);
	return unused;
}

static void reads(long count, int threads)
{
	pthread_t thread[64];
	int i;

	each = count / threads;
	for (i = 0; i < threads && i < 64; i++)
		if (pthread_create(&thread[i], 0, reader, 0))
			exit(1);
	while (i--)
		pthread_join(thread[i], 0);
}

int main(int argc, char **argv)
{
	int fd, i;

	if (argc < 4)
		return 2;
	node = argv[2];
	fd = open(node, O_RDONLY | O_NONBLOCK);
	if (fd < 0) {
		perror(node);
		return 1;
	}
	if (!strcmp(argv[1], "out"))
		out(fd, atol(argv[3]), atoi(argv[4]));
	else if (!strcmp(argv[1], "in"))
		in(fd, atol(argv[3]), atoi(argv[4]));
	else if (!strcmp(argv[1], "legacy"))
		legacy(fd, atol(argv[3]));
	else
		reads(atol(argv[3]), atoi(argv[4]));
	for (i = 0; i < 4; i++)
		printf("%s=%lu registers_%s=%lu ", outcomes[i], others[i], outcomes[i], registers[i]);
	puts("");
	return 0;
}
