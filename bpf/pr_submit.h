/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Submission: which commands are ours, whose programs answer for one, who asks, and from when on
 * the device can have it.
 */
#ifndef PR_SUBMIT_H
#define PR_SUBMIT_H

#define PR_OPCODE_INQUIRY 0x12
#define PR_OPCODE_IN 0x5e
#define PR_OPCODE_OUT 0x5f

#define PR_S_IFMT 0170000	/* include/uapi/linux/stat.h */
#define PR_S_IFBLK 0060000
#define PR_S_IFCHR 0020000

/*
 * 16 17 56 57: RESERVE and RELEASE of 6 and 10 bytes.  5e 5f: PERSISTENT RESERVE.  All six
 * have the bits of 0x16, which no READ or WRITE has: one test sends those away.
 */
static __always_inline int pr_is_ours(__u8 opcode)
{
	if ((opcode & 0x16) != 0x16)
		return 0;
	return (opcode & ~0x41) == 0x16 || (opcode & ~0x01) == PR_OPCODE_IN;
}

static __always_inline __u64 pr_active_value(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&pr_active, &which);

	return value ? *value : 0;
}

static __always_inline __u32 pr_active_generation(void)
{
	return pr_active_value(PR_ACTIVE_GENERATION);
}

/*
 * While an agent is being upgraded two generations of these programs are attached.  The
 * one that was active at a request's submission answers for it until its last end.
 */
static __always_inline int pr_answers_for(const struct pr_pending *pending)
{
	return (pending ? pending->generation : pr_active_generation()) == pr_generation;
}

/* The entry of a command, made where there is none; 0 where there is no room. */
static __always_inline struct pr_pending *pr_entry(__u64 id)
{
	struct pr_pending *pending = bpf_map_lookup_elem(&pr_pendings, &id), *empty;
	__u32 zero = 0;

	if (pending)
		return pending;
	empty = bpf_map_lookup_elem(&pr_no_pending, &zero);
	if (!empty)
		return 0;
	bpf_map_update_elem(&pr_pendings, &id, empty, BPF_NOEXIST);
	pending = bpf_map_lookup_elem(&pr_pendings, &id);
	if (!pending)
		pr_add(PR_STAT_PENDING_FULL, 1);
	return pending;
}

/*
 * An entry that is still under way when its scsi_cmnd is used again is a command whose end no
 * program saw: the kernel skips a program that is at work on the same processor already.  Where
 * nobody uses the scsi_cmnd again the agent finds out, which watches how often programs were
 * skipped (prtrace/probe/misses.py).
 */
static __always_inline void pr_note_missed(struct pr_pending *pending)
{
	struct pr_nexus nexus;

	if (!pending->submit_ns || pending->test ||
	    (pending->state != PR_STATE_UNDER_WAY && pending->state != PR_STATE_TIMED_OUT))
		return;
	nexus = pending->nexus;
	pr_note_loss(0, pending, &nexus, PR_STAT_MISSED);
}

/* The path of the task's executable: see pr_record::exe. */
__noinline int pr_read_exe(struct pr_pending *pending)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct dentry *dentry = 0, *root = 0, *parent = 0;
	struct mount *mount, *above = 0;
	const unsigned char *name = 0;
	struct vfsmount *mnt = 0;
	struct mm_struct *mm = 0;
	struct file *file = 0;
	__u64 at = 0;
	long n;
	int i;

	if (!pending)
		return 0;
	PR_GET(mm, task, mm);
	if (!mm)
		return 0;
	PR_GET(file, mm, exe_file);
	if (!file)
		return 0;
	PR_GET(dentry, file, f_path.dentry);
	PR_GET(mnt, file, f_path.mnt);
	for (i = 0; i < 24 && dentry && mnt; i++) {
		PR_GET(root, mnt, mnt_root);
		PR_GET(parent, dentry, d_parent);
		if (dentry == root || dentry == parent) {
			mount = (void *)mnt - PR_ADDRESS((struct mount *)0, mnt);
			PR_GET(above, mount, mnt_parent);
			if (!above || above == mount) {
				PR_OPAQUE(at);
				if (at < PR_EXE_SIZE)
					pending->exe[at] = '/';
				return 0;
			}
			PR_GET(dentry, mount, mnt_mountpoint);
			mnt = (void *)PR_ADDRESS(above, mnt);
			continue;
		}
		PR_GET(name, dentry, d_name.name);
		PR_OPAQUE(at);
		if (at >= PR_EXE_SIZE - 1)
			return 0;
		/* Longer names run into what follows, which is filled later. */
		n = bpf_probe_read_kernel_str(pending->exe + at, 64, name);
		if (n <= 0 || n >= 64)
			return 0;
		at += n;
		dentry = parent;
	}
	return 0;
}

/* The file that a descriptor of the task stands for. */
static __always_inline struct file *pr_file(struct task_struct *task, __u64 fd)
{
	struct files_struct *files = 0;
	struct fdtable *table = 0;
	struct file **open = 0, *file = 0;
	__u32 size = 0;

	PR_GET(files, task, files);
	if (!files)
		return 0;
	PR_GET(table, files, fdt);
	if (!table)
		return 0;
	PR_GET(size, table, max_fds);
	PR_GET(open, table, fd);
	if (!open || fd >= size)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), &open[fd]);
	return file;
}

/*
 * Which node was asked, and by which ioctl: the system call that the task is in says so, whatever
 * entry it came by, and nothing has to be hooked for it.  Another thread of the same process can put
 * another file in the descriptor's place meanwhile: this is the sender's own word on itself.
 */
static __always_inline void pr_read_call(struct task_struct *task, struct pr_pending *pending)
{
	struct pr_call call = {};
	struct inode *inode = 0;
	struct file *file;
	__u16 mode = 0;

	if (!pr_system_call(task, &call))
		return;
	file = pr_file(task, call.fd);
	if (!file)
		return;
	PR_GET(inode, file, f_inode);
	PR_GET(mode, inode, i_mode);
	if ((mode & PR_S_IFMT) == PR_S_IFBLK)
		pending->issue |= PR_ISSUE_BLOCK;
	else if ((mode & PR_S_IFMT) == PR_S_IFCHR)
		pending->issue |= PR_ISSUE_CHARACTER;
	else
		return;
	pending->ioctl = call.ioctl;
	PR_GET(pending->requested, inode, i_rdev);
}

static __always_inline void pr_read_issuer(struct request *rq, struct pr_pending *pending)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task(), *leader = 0;
	__u32 flags = 0;
	__u64 end = 0;

	PR_GET(flags, task, flags);
	PR_GET(leader, task, group_leader);
	if (leader)
		PR_GET(pending->issuer_start_ns, leader, start_boottime);
	pending->cgroup = bpf_get_current_cgroup_id();
	pending->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(pending->comm, sizeof(pending->comm));
	PR_GET(end, rq, end_io);
	if (pr_is_bsg_uring(end))
		pending->issue |= PR_ISSUE_BSG;
	if (flags & PR_PF_KTHREAD) {
		pending->issue |= PR_ISSUE_KTHREAD;
		return;
	}
	pr_read_exe(pending);
	if (!(flags & (PR_PF_IO_WORKER | PR_PF_USER_WORKER)))
		pr_read_call(task, pending);
}

static __always_inline int pr_is_watched(__u8 opcode)
{
	if (pr_is_ours(opcode))
		return 1;
	return opcode == PR_OPCODE_INQUIRY &&
	       pr_active_value(PR_ACTIVE_TEST) == bpf_get_current_pid_tgid() >> 32;
}

/* Everything that a request tells but who asked. */
static __always_inline struct pr_pending *pr_remember(struct request *rq,
						      struct scsi_device *device, __u8 opcode)
{
	__u64 id = (__u64)pr_command(rq);
	struct pr_pending *pending = pr_entry(id);

	if (!pending)
		return 0;
	pr_note_missed(pending);
	__builtin_memset(pending, 0, sizeof(*pending));
	pending->opcode = opcode;
	pending->test = opcode == PR_OPCODE_INQUIRY;
	pending->generation = pr_generation;
	pending->life = pr_life(device);
	pr_read_inquiry(device, pending->inquiry);
	pending->page83_length = pr_read_page83(device, pending->page83);
	pr_find_data(pending, (__u64)rq);
	if (opcode == PR_OPCODE_OUT)
		pr_read_head(pending);
	pending->start_ns = bpf_ktime_get_ns();
	return pending;
}

static __always_inline int pr_on_submit(struct request *rq, __u8 issue)
{
	struct scsi_cmnd *cmd = pr_command(rq);
	struct scsi_device *device;
	struct pr_pending *pending;
	__u8 opcode = 0;

	/* Not every request is a SCSI command; of another driver's we read a byte, no more. */
	if (bpf_probe_read_kernel(&opcode, 1, (void *)pr_cdb(cmd)) || !pr_is_watched(opcode))
		return 0;
	device = pr_device(rq);
	if (!device || pr_active_generation() != pr_generation)
		return 0;
	pending = pr_remember(rq, device, opcode);
	if (!pending)
		return 0;
	pending->issue = issue;
	pr_read_issuer(rq, pending);
	pr_read_nexus(device, &pending->nexus);
	pending->submit_ns = pending->start_ns = bpf_ktime_get_ns();
	return 0;
}

#endif
