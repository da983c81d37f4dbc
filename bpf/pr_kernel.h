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

struct pt_regs {
	unsigned long si;
	unsigned long di;
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

static __always_inline void pr_read_nexus(struct scsi_device *device, struct pr_nexus *nexus)
{
	struct Scsi_Host *host = 0;

	PR_GET(host, device, host);
	PR_GET(nexus->host, host, host_no);
	PR_GET(nexus->channel, device, channel);
	PR_GET(nexus->target, device, id);
	PR_GET(nexus->lun, device, lun);
	nexus->reserved = 0;
}

/* Returns how many bytes of the page arrived in to, which has room for PR_PAGE83_SIZE. */
static __always_inline __u32 pr_read_page83(struct scsi_device *device, __u8 *to)
{
	struct scsi_vpd *page = 0;
	int length = 0;
	__u64 n;

	PR_GET(page, device, vpd_pg83);
	if (!page)
		return 0;
	PR_GET(length, page, len);
	if (length <= 0)
		return 0;
	if (length >= PR_PAGE83_SIZE) {
		bpf_probe_read_kernel(to, PR_PAGE83_SIZE, (void *)PR_ADDRESS(page, data));
		return PR_PAGE83_SIZE;
	}
	n = length;
	PR_OPAQUE(n);
	n &= PR_PAGE83_SIZE - 1;
	bpf_probe_read_kernel(to, n, (void *)PR_ADDRESS(page, data));
	return n;
}

static __always_inline void pr_read_inquiry(struct scsi_device *device, __u8 *to)
{
	void *inquiry = 0;

	PR_GET(inquiry, device, inquiry);
	if (inquiry)
		bpf_probe_read_kernel(to, PR_INQUIRY_SIZE, inquiry + 8);
}

#endif
