/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's structures, and every difference between kernels, one function each.
 *
 * core: only the members that are read, relocated at load time (CO-RE).  bcc: the running
 * kernel's own headers.  Both read with PR_GET, which never faults.
 */
#ifndef PR_KERNEL_H
#define PR_KERNEL_H

#ifdef PR_BCC

#define PR_GET(to, from, member) \
	bpf_probe_read_kernel(&(to), sizeof(to), &(from)->member)
#define PR_ADDRESS(from, member) ((__u64)&(from)->member)
#define PR_SIZEOF(type) sizeof(type)
/* The loader reads the two from /proc/kallsyms and /proc/kcore's place: see prtrace/probe/bcc.py. */
static __always_inline __u64 pr_variable(__u64 at)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)at);
	return value;
}
#define PR_VMEMMAP_BASE pr_variable(PR_VMEMMAP_BASE_AT)
#define PR_PAGE_OFFSET_BASE pr_variable(PR_PAGE_OFFSET_BASE_AT)

/* fs/mount.h, which is not among the headers. */
struct mount {
	struct hlist_node mnt_hash;
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

#else

struct scsi_vpd {
	int len;
	unsigned char data[0];
} __attribute__((preserve_access_index));

struct Scsi_Host {
	unsigned int host_no;
} __attribute__((preserve_access_index));

struct kernfs_node {
	__u64 id;
} __attribute__((preserve_access_index));

struct kobject {
	struct kernfs_node *sd;
} __attribute__((preserve_access_index));

struct device {
	struct kobject kobj;
} __attribute__((preserve_access_index));

struct scsi_device {
	struct Scsi_Host *host;
	unsigned int id;
	unsigned int channel;
	__u64 lun;
	unsigned char *inquiry;
	struct scsi_vpd *vpd_pg83;
	struct request_queue *request_queue;
	struct device sdev_gendev;
} __attribute__((preserve_access_index));

struct scsi_cmnd {
	struct scsi_device *device;
	unsigned short cmd_len;
	unsigned char cmnd[32];
	unsigned int resid_len;
	unsigned char *sense_buffer;
	int result;
} __attribute__((preserve_access_index));

struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
} __attribute__((preserve_access_index));

struct bvec_iter {
	unsigned int bi_idx;
	unsigned int bi_bvec_done;
} __attribute__((preserve_access_index));

/* Since Linux 7. */
struct bvec_iter___offset {
	unsigned int bi_offset;
} __attribute__((preserve_access_index));

struct bio {
	struct bio *bi_next;
	unsigned short bi_vcnt;
	struct bvec_iter bi_iter;
	struct bio_vec *bi_io_vec;
	void *bi_end_io;
	void *bi_private;
} __attribute__((preserve_access_index));

struct request_queue {
	void *queuedata;
} __attribute__((preserve_access_index));

struct request {
	struct request_queue *q;
	struct bio *bio;
	unsigned int __data_len;
	void *end_io;
} __attribute__((preserve_access_index));

struct page {
	unsigned long flags;
} __attribute__((preserve_access_index));

struct qstr {
	const unsigned char *name;
} __attribute__((preserve_access_index));

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
} __attribute__((preserve_access_index));

struct vfsmount {
	struct dentry *mnt_root;
} __attribute__((preserve_access_index));

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
} __attribute__((preserve_access_index));

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} __attribute__((preserve_access_index));

struct inode {
	unsigned short i_mode;
	__u32 i_rdev;
} __attribute__((preserve_access_index));

struct address_space {
	struct inode *host;
} __attribute__((preserve_access_index));

struct file {
	struct path f_path;
	struct inode *f_inode;
} __attribute__((preserve_access_index));

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} __attribute__((preserve_access_index));

struct files_struct {
	struct fdtable *fdt;
} __attribute__((preserve_access_index));

struct mm_struct {
	struct file *exe_file;
} __attribute__((preserve_access_index));

struct thread_info {
	__u32 status;
} __attribute__((preserve_access_index));

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	struct task_struct *group_leader;
	__u64 start_boottime;
	struct mm_struct *mm;
	struct files_struct *files;
} __attribute__((preserve_access_index));

#define PR_GET(to, from, member) \
	bpf_probe_read_kernel(&(to), sizeof(to), \
			      __builtin_preserve_access_index(&(from)->member))
#define PR_ADDRESS(from, member) \
	((__u64)__builtin_preserve_access_index(&(from)->member))
#define PR_SIZEOF(type) bpf_core_type_size(type)

/*
 * What the loader has the kernel look up before anything is attached: see pr_learn.  All zero where
 * the architecture has no such variables; then no page can be read, and every list is in doubt.
 */
struct pr_kernel {
	__u64 vmemmap_base;
	__u64 page_offset_base;
	__u64 flush_end_io;	/* mq_flush_data_end_io() */
	__u64 bsg_uring_end_io;	/* scsi_bsg_uring_cmd_done() */
} pr_kernel;

#define PR_VMEMMAP_BASE pr_kernel.vmemmap_base
#define PR_PAGE_OFFSET_BASE pr_kernel.page_offset_base

#endif

/*
 * Hide x from clang.  It would otherwise drop a bounds check that it can prove redundant, and which
 * the verifier cannot.
 */
#define PR_OPAQUE(x) asm volatile("" : "+r"(x))
/*
 * x (__u64) becomes at most max, in a form that the verifier follows everywhere: a compiler may put a
 * variable on the stack before it compares it, and 6.1's verifier does not know then that what it
 * takes from the stack was compared.  clang 19 does so.
 */
#define PR_AT_MOST(x, max) \
	asm volatile("if %0 <= %1 goto +1\n%0 = %1" : "+r"(x) : "r"((__u64)(max)))

/* include/linux/sched.h: threads without system calls of their own. */
#define PR_PF_IO_WORKER 0x00000010
#define PR_PF_USER_WORKER 0x00004000
#define PR_PF_KTHREAD 0x00200000

/* The command's private data follows its request: blk_mq_rq_to_pdu(). */
static __always_inline struct scsi_cmnd *pr_command(struct request *rq)
{
	return (struct scsi_cmnd *)((void *)rq + PR_SIZEOF(struct request));
}

static __always_inline struct request *pr_request(struct scsi_cmnd *cmd)
{
	return (struct request *)((void *)cmd - PR_SIZEOF(struct request));
}

/*
 * Where a command's CDB is.  Until Linux 5.18 requests had it in their struct scsi_request, which
 * scsi_cmnd begins with and scsi_cmnd::cmnd points at once the command is prepared.
 */
static __always_inline __u64 pr_cdb(struct scsi_cmnd *cmd)
{
#ifdef PR_SCSI_REQUEST
	__u64 at = 0;

	PR_GET(at, cmd, req.cmd);
	return at;
#else
	return PR_ADDRESS(cmd, cmnd);
#endif
}

static __always_inline __u32 pr_resid(struct scsi_cmnd *cmd)
{
	__u32 resid = 0;

#ifdef PR_SCSI_REQUEST
	PR_GET(resid, cmd, req.resid_len);
#else
	PR_GET(resid, cmd, resid_len);
#endif
	return resid;
}

/* The bytes of a bio's first segment that lie before the data. */
static __always_inline __u32 pr_bio_skip(struct bio *bio)
{
	__u32 skip = 0;

#ifndef PR_BCC
	if (bpf_core_field_exists(struct bvec_iter___offset, bi_offset)) {
		struct bvec_iter___offset *at = (void *)PR_ADDRESS(bio, bi_iter);

		PR_GET(skip, at, bi_offset);
		return skip;
	}
	if (!bpf_core_field_exists(struct bvec_iter, bi_bvec_done))
		return 0;
#endif
	PR_GET(skip, bio, bi_iter.bi_bvec_done);
	return skip;
}

/* The kernel's own address of a page's bytes; 0 if there is none.  x86-64: it is in the direct map. */
static __always_inline __u64 pr_page_address(__u64 page, __u32 offset)
{
	__u64 base = PR_VMEMMAP_BASE;

	if (!page || !base)
		return 0;
	return PR_PAGE_OFFSET_BASE + (page - base) / PR_SIZEOF(struct page) * 4096 + offset;
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

/*
 * One life of a device.  The kernel gives an H:C:T:L to another device after this one, and never
 * gives a kernfs node's number again: Linux kernel commit 40430452fd5d ("kernfs: use 64bit inos if
 * ino_t is 64bit") (in v5.5).
 */
static __always_inline __u64 pr_life(struct scsi_device *device)
{
	struct kernfs_node *folder = 0;
	__u64 id = 0;

	PR_GET(folder, device, sdev_gendev.kobj.sd);
	if (folder)
		PR_GET(id, folder, id);
	return id;
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
