/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's structures, and every difference between kernels, one function each.
 *
 * core: only the members that are read, relocated at load time (CO-RE).  bcc: the
 * running kernel's own headers.  Both read with PR_GET, which never faults; the two
 * loads on the path of every command are PR_FAST, which core may do directly because
 * the verifier knows the tracepoint's argument.
 */
#ifndef PR_KERNEL_H
#define PR_KERNEL_H

#ifdef PR_BCC

#include <uapi/linux/ptrace.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/scatterlist.h>
#include <scsi/scsi_cmnd.h>
#include <scsi/scsi_device.h>
#include <scsi/scsi_host.h>

#define PR_GET(to, from, member) \
	bpf_probe_read_kernel(&(to), sizeof(to), &(from)->member)
#define PR_ADDRESS(from, member) ((__u64)&(from)->member)
#define PR_SIZEOF(type) sizeof(type)
/* The loader passes where kallsyms has the two variables. */
#define PR_VMEMMAP_BASE ((void *)PR_VMEMMAP_BASE_AT)
#define PR_PAGE_OFFSET_BASE ((void *)PR_PAGE_OFFSET_BASE_AT)

#else

struct scatterlist {
	unsigned long page_link;
	unsigned int offset;
	unsigned int length;
} __attribute__((preserve_access_index));

struct sg_table {
	struct scatterlist *sgl;
} __attribute__((preserve_access_index));

struct scsi_data_buffer {
	struct sg_table table;
	unsigned int length;
} __attribute__((preserve_access_index));

struct scsi_vpd {
	int len;
	unsigned char data[0];
} __attribute__((preserve_access_index));

struct Scsi_Host {
	unsigned int host_no;
} __attribute__((preserve_access_index));

struct scsi_device {
	struct Scsi_Host *host;
	unsigned int id;
	unsigned int channel;
	__u64 lun;
	unsigned char *inquiry;
	struct scsi_vpd *vpd_pg83;
	struct request_queue *request_queue;
} __attribute__((preserve_access_index));

struct scsi_cmnd {
	struct scsi_device *device;
	unsigned short cmd_len;
	unsigned char cmnd[32];
	struct scsi_data_buffer sdb;
	unsigned int resid_len;
	unsigned char *sense_buffer;
	int result;
} __attribute__((preserve_access_index));

struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
} __attribute__((preserve_access_index));

struct bio {
	struct bio_vec *bi_io_vec;
} __attribute__((preserve_access_index));

struct request_queue {
	void *queuedata;
} __attribute__((preserve_access_index));

struct request {
	struct request_queue *q;
	struct bio *bio;
} __attribute__((preserve_access_index));

struct page {
	unsigned long flags;
} __attribute__((preserve_access_index));

struct inode {
	__u32 i_rdev;
} __attribute__((preserve_access_index));

struct address_space {
	struct inode *host;
} __attribute__((preserve_access_index));

struct file {
	struct address_space *f_mapping;
} __attribute__((preserve_access_index));

struct task_struct {
	unsigned int flags;
	struct task_struct *group_leader;
	__u64 start_boottime;
} __attribute__((preserve_access_index));

#define PR_GET(to, from, member) \
	bpf_probe_read_kernel(&(to), sizeof(to), \
			      __builtin_preserve_access_index(&(from)->member))
#define PR_ADDRESS(from, member) \
	((__u64)__builtin_preserve_access_index(&(from)->member))
#define PR_SIZEOF(type) bpf_core_type_size(type)
#define PR_VMEMMAP_BASE ((void *)pr_vmemmap_base_at)
#define PR_PAGE_OFFSET_BASE ((void *)pr_page_offset_base_at)

#endif

/* What the compiler has proved of x it forgets, and so writes the bound the verifier wants. */
#define PR_OPAQUE(x) asm volatile("" : "+r"(x))

#define PR_PF_KTHREAD 0x00200000	/* include/linux/sched.h */

/* The command's private data follows its request: blk_mq_rq_to_pdu(). */
static __always_inline struct scsi_cmnd *pr_command(struct request *rq)
{
	return (struct scsi_cmnd *)((void *)rq + PR_SIZEOF(struct request));
}

static __always_inline __u64 pr_variable(const void *at)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

/*
 * The kernel's own address of a segment's bytes; 0 if there is none.  x86-64: memory that
 * a scatterlist points at is in the direct map.
 */
static __always_inline __u64 pr_segment_address(__u64 page_link, __u32 offset)
{
	__u64 page = page_link & ~3ULL;	/* SG_CHAIN, SG_END */
	__u64 frame;

	if (!page)
		return 0;
	frame = (page - pr_variable(PR_VMEMMAP_BASE)) / PR_SIZEOF(struct page);
	return pr_variable(PR_PAGE_OFFSET_BASE) + frame * 4096 + offset;
}

/* The device that a request is for; 0 where it is another driver's. */
static __always_inline struct scsi_device *pr_device(struct request *rq)
{
	struct request_queue *queue = 0, *own = 0;
	struct scsi_device *device = 0;

	PR_GET(queue, rq, q);
	if (!queue)
		return 0;
	PR_GET(device, queue, queuedata);
	if (!device)
		return 0;
	PR_GET(own, device, request_queue);
	return own == queue ? device : 0;
}

/*
 * Read n bytes at the beginning of what a request will send; fails if they span segments.
 * The midlayer makes its scatterlist of these segments later; none of them is consumed yet.
 */
static __always_inline int pr_read_submitted(struct request *rq, void *to, __u32 n)
{
	__u32 offset = 0, length = 0;
	struct bio_vec *segment = 0;
	struct bio *bio = 0;
	__u64 page = 0, from;

	PR_GET(bio, rq, bio);
	if (!bio)
		return -1;
	PR_GET(segment, bio, bi_io_vec);
	if (!segment)
		return -1;
	PR_GET(page, segment, bv_page);
	PR_GET(offset, segment, bv_offset);
	PR_GET(length, segment, bv_len);
	from = pr_segment_address(page, offset);
	if (!from || length < n)
		return -1;
	return bpf_probe_read_kernel(to, n, (void *)from);
}

/* Read n bytes at the beginning of the command's data; fails if they span segments. */
static __always_inline int pr_read_first(struct scsi_cmnd *cmd, void *to, __u32 n)
{
	struct scatterlist *sg = 0;
	__u64 link = 0, from;
	__u32 offset = 0, length = 0;

	PR_GET(sg, cmd, sdb.table.sgl);
	if (!sg)
		return -1;
	PR_GET(link, sg, page_link);
	PR_GET(offset, sg, offset);
	PR_GET(length, sg, length);
	from = pr_segment_address(link, offset);
	if (!from || length < n)
		return -1;
	return bpf_probe_read_kernel(to, n, (void *)from);
}

/* Where a copy stands. */
struct pr_walk {
	__u64 sg;
	__u64 from;	/* the kernel's address of the next part */
	__u32 length;	/* of the segment; 0 before it was looked at */
	__u32 inside;	/* bytes done of it */
	__u32 last;	/* it is the last one */
	__u32 part;	/* bytes of the next part */
	__u32 copied;
	__u32 want;
};

enum pr_located {
	PR_LOCATED_NOTHING,	/* there is no more */
	PR_LOCATED_CHAIN,	/* the list goes on elsewhere: look again */
	PR_LOCATED_PART,
};

/* Find the next part, of at most chunk bytes and of one segment. */
PR_APART int pr_locate(volatile struct pr_walk *walk, __u32 chunk)
{
	struct scatterlist *sg;
	__u32 offset = 0, length = 0, part;
	__u64 link = 0;

	if (!walk)
		return PR_LOCATED_NOTHING;
	if (walk->length && walk->inside >= walk->length) {
		walk->sg = walk->last ? 0 : walk->sg + PR_SIZEOF(struct scatterlist);
		walk->inside = 0;
	}
	sg = (void *)walk->sg;
	if (!sg || walk->copied >= walk->want)
		return PR_LOCATED_NOTHING;
	PR_GET(link, sg, page_link);
	PR_GET(offset, sg, offset);
	PR_GET(length, sg, length);
	if (link & 1) {	/* SG_CHAIN */
		walk->sg = link & ~3ULL;
		walk->length = 0;
		return PR_LOCATED_CHAIN;
	}
	walk->last = (link & 2) != 0;	/* SG_END */
	walk->length = length;
	part = walk->want - walk->copied;
	if (part > length - walk->inside)
		part = length - walk->inside;
	if (part > chunk)
		part = chunk;
	walk->part = part;
	walk->from = pr_segment_address(link, offset + walk->inside);
	return part && walk->from ? PR_LOCATED_PART : PR_LOCATED_NOTHING;
}

/*
 * One step of a copy: up to chunk bytes of one segment to to + copied.  to has room for
 * cap + chunk bytes, because the verifier does not relate the offset to the length.
 * Returns 0 when there is nothing more to do.
 *
 * walk lives in the ring record and is volatile: what the verifier loads from there it
 * knows nothing about, so every step starts from the same state.  In registers, which is where
 * it is when bcc inlines everything, the same steps take the verifier minutes.
 */
static __always_inline int pr_copy_step(__u8 *to, volatile struct pr_walk *walk, __u32 chunk,
					__u32 cap)
{
	int located = pr_locate(walk, chunk);
	__u64 part, copied;

	if (located != PR_LOCATED_PART)
		return located;
	part = walk->part;
	copied = walk->copied;
	PR_OPAQUE(part);
	PR_OPAQUE(copied);
	if (part > chunk || copied >= cap ||
	    bpf_probe_read_kernel(to + copied, part, (void *)walk->from))
		return 0;
	walk->inside += part;
	walk->copied = copied + part;
	return 1;
}

#endif
