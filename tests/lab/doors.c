// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * doors WAY NODE KEY [COUNT]: REGISTER AND IGNORE EXISTING KEY with a SERVICE ACTION RESERVATION KEY,
 * by one of the ways into the kernel that Python has no words for.
 *
 *   straddling   SG_IO, the list on both sides of a page's end
 *   pieces       SG_IO, the list in three iovecs of 8 bytes
 *   short        SG_IO, with a CDB length of 9
 *   compat       SG_IO by the system call of 32-bit programs
 *   compat_pr    IOC_PR_REGISTER by the same
 *   send         SCSI_IOCTL_SEND_COMMAND
 *   packet       CDROM_SEND_PACKET
 *   uring        bsg by io_uring (Linux 7)
 *   fixed        the same, the list inside the second page of a registered buffer
 *   fixed_over   the same, the list on both sides of that page's end
 *   race         as straddling, COUNT times with KEY, KEY + 0x100, …; a second thread changes the
 *                last byte of the key under way, to nothing but KEY's own and KEY's own + 1
 *
 * Exit status 0: GOOD; 2: this kernel has no such way; 1: anything else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <scsi/sg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIST 24

static const unsigned char cdb[10] = { 0x5f, 6, 0, 0, 0, 0, 0, 0, LIST, 0 };
static int fd;

/* Memory that 32-bit system calls can name. */
static unsigned char *low(void)
{
	void *at = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT,
			-1, 0);

	if (at == MAP_FAILED)
		exit(1);
	return at;
}

static void put(unsigned char *list, uint64_t key)
{
	int i;

	memset(list, 0, LIST);
	for (i = 0; i < 8; i++)
		list[8 + i] = key >> (56 - 8 * i);
}

static int sg_io(void *data, int pieces, int length)
{
	unsigned char sense[64] = {}, command[16] = {};
	struct sg_io_hdr hdr = {
		.interface_id = 'S', .dxfer_direction = SG_DXFER_TO_DEV, .cmd_len = length,
		.mx_sb_len = sizeof(sense), .dxfer_len = LIST, .dxferp = data, .cmdp = command,
		.sbp = sense, .timeout = 60000, .iovec_count = pieces,
	};

	memcpy(command, cdb, sizeof(cdb));
	return ioctl(fd, SG_IO, &hdr) || hdr.status || hdr.host_status;
}

static long compat_ioctl(unsigned command, void *argument)
{
	long result;

	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(54L), "b"((long)fd), "c"((long)command), "d"((long)argument)
		     : "memory");
	return result;
}

static int compat(uint64_t key)
{
	struct {	/* struct compat_sg_io_hdr, include/scsi/sg.h */
		int32_t interface_id, direction;
		uint8_t cmd_len, mx_sb_len;
		uint16_t iovec_count;
		uint32_t dxfer_len, dxferp, cmdp, sbp, timeout, flags, pack_id, usr_ptr;
		uint8_t status, masked_status, msg_status, sb_len_wr;
		uint16_t host_status, driver_status;
		int32_t resid;
		uint32_t duration, info;
	} *hdr;
	unsigned char *at = low();
	long result;

	hdr = (void *)at;
	memcpy(at + 512, cdb, sizeof(cdb));
	put(at + 1024, key);
	hdr->interface_id = 'S';
	hdr->direction = SG_DXFER_TO_DEV;
	hdr->cmd_len = sizeof(cdb);
	hdr->mx_sb_len = 64;
	hdr->dxfer_len = LIST;
	hdr->cmdp = (uintptr_t)at + 512;
	hdr->dxferp = (uintptr_t)at + 1024;
	hdr->sbp = (uintptr_t)at + 2048;
	hdr->timeout = 60000;
	result = compat_ioctl(SG_IO, at);
	if (result == -ENOSYS)
		return 2;
	return result || hdr->status || hdr->host_status;
}

static int compat_pr(uint64_t key)
{
	unsigned char *at = low();
	long result;

	memcpy(at + 8, &key, 8);
	*(uint32_t *)(at + 16) = 1;	/* PR_FL_IGNORE_KEY */
	result = compat_ioctl(0x401870c8, at);	/* IOC_PR_REGISTER */
	return result == -ENOSYS ? 2 : !!result;
}

static int send_command(uint64_t key)
{
	struct {
		unsigned in, out;
		unsigned char data[256];
	} ask = { .in = LIST };

	memcpy(ask.data, cdb, sizeof(cdb));
	put(ask.data + sizeof(cdb), key);
	return ioctl(fd, 1, &ask) != 0;
}

static int packet(uint64_t key)
{
	struct {	/* struct cdrom_generic_command, include/uapi/linux/cdrom.h */
		unsigned char cmd[12];
		void *buffer;
		unsigned length;
		int stat;
		void *sense;
		unsigned char direction;
		int quiet, timeout;
		void *reserved;
	} ask = { .length = LIST, .direction = 1, .timeout = 6000 };
	static unsigned char list[LIST], sense[64];

	put(list, key);
	memcpy(ask.cmd, cdb, sizeof(cdb));
	ask.buffer = list;
	ask.sense = sense;
	return ioctl(fd, 0x5393, &ask) != 0;
}

static void *part(int ring, size_t size, off_t at)
{
	void *found = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, at);

	if (found == MAP_FAILED)
		exit(1);
	return found;
}

/* list: of registered, a buffer of the size below, or on its own. */
static int uring(unsigned char *list, unsigned char *registered)
{
	struct iovec { void *base; size_t length; } buffer = { registered, 3 * 4096 };
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 };
	struct {	/* struct bsg_uring_cmd, include/uapi/linux/bsg.h */
		uint64_t request;
		uint32_t request_len, protocol, subprotocol, max_response_len;
		uint64_t response, dout_xferp;
		uint32_t dout_xfer_len, dout_iovec_count;
		uint64_t din_xferp;
		uint32_t din_xfer_len, din_iovec_count, timeout_ms;
		uint8_t reserved[12];
	} *command;
	int ring = syscall(__NR_io_uring_setup, 1, &p);
	struct io_uring_sqe *entry;
	unsigned char sense[64];
	struct io_uring_cqe *end;
	char *sq, *cq;

	if (ring < 0)
		return 2;
	sq = part(ring, p.sq_off.array + 4, IORING_OFF_SQ_RING);
	cq = part(ring, p.cq_off.cqes + 32 * p.cq_entries, IORING_OFF_CQ_RING);
	entry = part(ring, 128, IORING_OFF_SQES);
	entry->opcode = IORING_OP_URING_CMD;
	entry->fd = fd;
	if (registered) {
		if (syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1))
			return 1;
		entry->uring_cmd_flags = IORING_URING_CMD_FIXED;
	}
	command = (void *)((char *)entry + 48);
	command->request = (uintptr_t)cdb;
	command->request_len = sizeof(cdb);
	command->max_response_len = sizeof(sense);
	command->response = (uintptr_t)sense;
	command->dout_xferp = (uintptr_t)list;
	command->dout_xfer_len = LIST;
	command->timeout_ms = 60000;
	*(unsigned *)(sq + p.sq_off.array) = 0;
	__atomic_store_n((unsigned *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) != 1)
		return 1;
	end = (void *)(cq + p.cq_off.cqes);
	if (end->res == -EOPNOTSUPP || end->res == -EINVAL)
		return 2;
	return end->res != 0;
}

static volatile unsigned char *flipped;
static volatile int over;

static void *flip(void *unused)
{
	while (!over)
		*flipped ^= 1;
	return unused;
}

static int race(unsigned char *list, uint64_t key, long count)
{
	pthread_t thread;
	int failed = 0;

	put(list, key);
	flipped = list + 15;
	if (pthread_create(&thread, 0, flip, 0))
		return 1;
	while (count--) {
		key += 0x100;
		list[14] = key >> 8;
		list[13] = key >> 16;
		failed |= sg_io(list, 0, sizeof(cdb));
	}
	over = 1;
	pthread_join(thread, 0);
	return failed;
}

int main(int argc, char **argv)
{
	unsigned char *list = low() + 4096 - LIST / 2;
	struct iovec { void *base; size_t length; } pieces[3];
	const char *way;
	uint64_t key;
	int i;

	if (argc < 4)
		return 1;
	way = argv[1];
	key = strtoull(argv[3], 0, 16);
	fd = open(argv[2], O_RDWR);
	if (fd < 0)
		return 1;
	put(list, key);
	for (i = 0; i < 3; i++) {
		pieces[i].base = list + 8 * i;
		pieces[i].length = 8;
	}
	if (!strcmp(way, "straddling"))
		return sg_io(list, 0, sizeof(cdb));
	if (!strcmp(way, "pieces"))
		return sg_io(pieces, 3, sizeof(cdb));
	if (!strcmp(way, "short"))
		return sg_io(list, 0, 9);
	if (!strcmp(way, "compat"))
		return compat(key);
	if (!strcmp(way, "compat_pr"))
		return compat_pr(key);
	if (!strcmp(way, "send"))
		return send_command(key);
	if (!strcmp(way, "packet"))
		return packet(key);
	if (!strcmp(way, "uring"))
		return uring(list, 0);
	if (!strcmp(way, "fixed") || !strcmp(way, "fixed_over")) {
		unsigned char *pages = low();

		list = pages + (strcmp(way, "fixed") ? 2 * 4096 - LIST / 2 : 4096 + 2000);
		put(list, key);
		return uring(list, pages);
	}
	if (!strcmp(way, "race") && argc == 5)
		return race(list, key, atol(argv[4]));
	return 1;
}
