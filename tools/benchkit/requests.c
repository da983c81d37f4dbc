// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * requests WAY DEVICE COUNT REPEATS: the same request again and again, one after the other.  Prints
 * the nanoseconds of CLOCK_MONOTONIC for each, a line a repeat; in a machine whose clock is driven by
 * instructions, these are instructions.
 *
 *   read    4 KiB with O_DIRECT
 *   sg_io   READ(10) of 4 KiB by SG_IO: somebody else's passthrough command
 *   ioctl   BLKGETSIZE64, which every look at a disk begins with
 *   nvme    a READ of 4 KiB by io_uring passthrough on a character node of NVMe (/dev/ng0n1)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/nvme_ioctl.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIZE 4096

static int fd;
static void *to;

static long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int by_read(void)
{
	return pread(fd, to, SIZE, 0) == SIZE;
}

static int by_sg_io(void)
{
	unsigned char cdb[10] = { 0x28 }, sense[64];
	struct sg_io_hdr hdr = {
		.interface_id = 'S', .dxfer_direction = SG_DXFER_FROM_DEV, .cmd_len = sizeof(cdb),
		.mx_sb_len = sizeof(sense), .dxfer_len = SIZE, .dxferp = to, .cmdp = cdb, .sbp = sense,
		.timeout = 60000,
	};

	cdb[8] = SIZE / 512;
	return !ioctl(fd, SG_IO, &hdr) && !hdr.status && !hdr.host_status;
}

static int by_ioctl(void)
{
	unsigned long long size;

	return !ioctl(fd, BLKGETSIZE64, &size);
}

/* A ring of one entry, with 128 bytes for it and 32 for its completion. */
static struct {
	int fd;
	unsigned *tail, *mask, *array, *head, *end, *end_mask;
	char *entries, *ends;
} ring;

static void *ring_part(size_t size, off_t at)
{
	void *part = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, at);

	if (part == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return part;
}

static void make_ring(void)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 };
	char *sq, *cq;

	ring.fd = syscall(__NR_io_uring_setup, 1, &p);
	if (ring.fd < 0) {
		perror("io_uring_setup");
		exit(1);
	}
	sq = ring_part(p.sq_off.array + p.sq_entries * 4, IORING_OFF_SQ_RING);
	cq = ring_part(p.cq_off.cqes + p.cq_entries * 32, IORING_OFF_CQ_RING);
	ring.entries = ring_part(p.sq_entries * 128, IORING_OFF_SQES);
	ring.tail = (void *)(sq + p.sq_off.tail);
	ring.mask = (void *)(sq + p.sq_off.ring_mask);
	ring.array = (void *)(sq + p.sq_off.array);
	ring.head = (void *)(cq + p.cq_off.head);
	ring.end = (void *)(cq + p.cq_off.tail);
	ring.end_mask = (void *)(cq + p.cq_off.ring_mask);
	ring.ends = cq + p.cq_off.cqes;
}

static int by_nvme(void)
{
	unsigned at = *ring.tail & *ring.mask;
	struct io_uring_sqe *entry = (void *)(ring.entries + at * 128);
	struct nvme_uring_cmd *command = (void *)(ring.entries + at * 128 + 48);
	struct io_uring_cqe *end;

	memset(entry, 0, 128);
	entry->opcode = IORING_OP_URING_CMD;
	entry->fd = fd;
	entry->cmd_op = NVME_URING_CMD_IO;
	command->opcode = 0x02;
	command->nsid = 1;
	command->addr = (unsigned long)to;
	command->data_len = SIZE;
	command->cdw12 = SIZE / 512 - 1;
	ring.array[at] = at;
	__atomic_store_n(ring.tail, *ring.tail + 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) != 1)
		return 0;
	end = (void *)(ring.ends + (*ring.head & *ring.end_mask) * 32);
	errno = -end->res;
	__atomic_store_n(ring.head, *ring.head + 1, __ATOMIC_RELEASE);
	return !end->res;
}

int main(int argc, char **argv)
{
	long count, repeats, i, r;
	int (*request)(void);

	if (argc != 5)
		return 2;
	request = !strcmp(argv[1], "sg_io") ? by_sg_io : !strcmp(argv[1], "ioctl") ? by_ioctl :
		  !strcmp(argv[1], "nvme") ? by_nvme : by_read;
	count = atol(argv[3]);
	repeats = atol(argv[4]);
	fd = open(argv[2], request == by_nvme ? O_RDWR : O_RDONLY | O_DIRECT);
	if (fd < 0 || posix_memalign(&to, SIZE, SIZE)) {
		perror(argv[2]);
		return 1;
	}
	if (request == by_nvme)
		make_ring();
	for (r = -1; r < repeats; r++) {	/* the first one warms up */
		long long begin = now();

		for (i = 0; i < count; i++) {
			if (!request()) {
				perror(argv[1]);
				return 1;
			}
		}
		if (r >= 0)
			printf("%.2f\n", (double)(now() - begin) / count);
	}
	return 0;
}
