/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Submission: which commands are ours, whose programs answer for one, who asks, and from when on
 * the device can have it.
 */
#ifndef PR_SUBMIT_H
#define PR_SUBMIT_H

#define PR_OPCODE_IN 0x5e
#define PR_OPCODE_OUT 0x5f

#define PR_SG_IO 0x2285			/* include/scsi/sg.h */
#define PR_IOC_PR_FIRST 200		/* include/uapi/linux/pr.h: _IOW('p', 200...) */
#define PR_IOC_PR_LAST 207

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

static __always_inline __u32 pr_active_generation(void)
{
	__u32 zero = 0;
	__u64 *value = PR_LOOKUP(pr_active, &zero);

	return value ? *value : 0;
}

/*
 * While an agent is being upgraded two generations of these programs are attached.  The
 * one that was active at a request's submission answers for it until its last end.
 */
static __always_inline int pr_answers_for(const struct pr_pending *pending)
{
	return (pending ? pending->generation : pr_active_generation()) == pr_generation;
}

/*
 * A program does not run where the same program is at work on the same processor already:
 * scsi_done() in a hard interrupt on top of pr_on_done, for one.  A command that ended so
 * is found when its scsi_cmnd is used again, here, or else by the agent, which watches how
 * often the kernel skipped a program (prtrace/probe/misses.py).
 */
static __always_inline void pr_note_missed(const struct pr_pending *pending)
{
	struct pr_nexus nexus;

	if (pending->state != PR_STATE_UNDER_WAY)
		return;
	nexus = pending->nexus;
	pr_note_loss(0, &nexus, PR_STAT_MISSED);
}

static __always_inline void pr_remember(__u64 id, struct pr_pending *pending)
{
	const struct pr_pending *former = PR_LOOKUP(pr_pendings, &id);

	if (former)
		pr_note_missed(former);
	if (PR_UPDATE(pr_pendings, &id, pending))
		pr_add(PR_STAT_PENDING_FULL, 1);
}

#ifndef PR_NO_FENTRY

static __always_inline int pr_on_submit(struct request *rq, __u8 issue)
{
	struct scsi_cmnd *cmd = pr_command(rq);
	struct task_struct *task, *leader = 0;
	struct pr_pending pending = {};
	struct scsi_device *device;
	__u64 thread, id = (__u64)cmd;
	struct pr_call *call;
	__u32 flags = 0;
	__u8 opcode = 0;

	/* Not every request is a SCSI command; of another driver's we read a byte, no more. */
	if (PR_GET(opcode, cmd, cmnd[0]) || !pr_is_ours(opcode))
		return 0;
	device = pr_device(rq);
	if (!device || pr_active_generation() != pr_generation)
		return 0;

	pending.opcode = opcode;
	pending.generation = pr_generation;
	pr_read_nexus(device, &pending.nexus);
	if (opcode == PR_OPCODE_OUT && !pr_read_submitted(rq, pending.head, PR_HEAD_SIZE))
		pending.head_length = PR_HEAD_SIZE;
	task = (struct task_struct *)bpf_get_current_task();
	thread = bpf_get_current_pid_tgid();
	PR_GET(flags, task, flags);
	PR_GET(leader, task, group_leader);
	if (leader)
		PR_GET(pending.issuer_start_ns, leader, start_boottime);
	pending.cgroup = bpf_get_current_cgroup_id();
	pending.pid = thread >> 32;
	pending.issue = issue;
	if (flags & PR_PF_KTHREAD)
		pending.issue |= PR_ISSUE_KTHREAD;
	/* No ioctl of these submits without waiting: one is left over, where its exit was skipped. */
	call = issue & PR_ISSUE_NOWAIT ? 0 : PR_LOOKUP(pr_calls, &thread);
	if (call) {
		pending.ioctl = call->ioctl;
		pending.requested = call->requested;
		pending.issue |= call->ioctl ? PR_ISSUE_BLOCK : PR_ISSUE_BSG;
	}
	bpf_get_current_comm(pending.comm, sizeof(pending.comm));
	pending.submit_ns = pending.start_ns = bpf_ktime_get_ns();
	pr_remember(id, &pending);
	return 0;
}

PR_ON_CALL(pr_submit, blk_execute_rq)
{
	return pr_on_submit(PR_CALLED_WITH(struct request *), 0);
}

PR_ON_CALL(pr_submit_nowait, blk_execute_rq_nowait)
{
	return pr_on_submit(PR_CALLED_WITH(struct request *), PR_ISSUE_NOWAIT);
}

static __always_inline int pr_forget_call(void)
{
	__u64 thread = bpf_get_current_pid_tgid();

	PR_DELETE(pr_calls, &thread);
	return 0;
}

PR_ON_ENTRY(pr_block_ioctl, blkdev_ioctl)
{
	struct file *file = PR_ARGUMENT(struct file *, 0);
	struct pr_call call = { .ioctl = PR_ARGUMENT(__u64, 1) };
	__u64 thread = bpf_get_current_pid_tgid();
	struct address_space *mapping = 0;
	struct inode *inode = 0;
	__u8 number = call.ioctl;

	if (call.ioctl != PR_SG_IO &&
	    !(((call.ioctl >> 8) & 0xff) == 'p' && number >= PR_IOC_PR_FIRST &&
	      number <= PR_IOC_PR_LAST))
		return 0;
	PR_GET(mapping, file, f_mapping);
	PR_GET(inode, mapping, host);
	PR_GET(call.requested, inode, i_rdev);
	PR_UPDATE(pr_calls, &thread, &call);
	return 0;
}

PR_ON_RETURN(pr_block_ioctl_return, blkdev_ioctl)
{
	return pr_forget_call();
}

#ifndef PR_BCC	/* libbcc attaches to functions of the kernel proper only */
PR_ON_ENTRY(pr_bsg, scsi_bsg_sg_io_fn)
{
	struct pr_call call = {};	/* no ioctl number: bsg has but the one */
	__u64 thread = bpf_get_current_pid_tgid();

	PR_UPDATE(pr_calls, &thread, &call);
	return 0;
}

PR_ON_RETURN(pr_bsg_return, scsi_bsg_sg_io_fn)
{
	return pr_forget_call();
}
#endif

#else	/* PR_NO_FENTRY */

/*
 * Without BTF no program attaches to the submission.  Nobody knows who asked, then; this stands
 * in for the rest of it.
 */
PR_ON_COMMAND(pr_on_start, scsi_dispatch_cmd_start)
{
	struct pr_pending pending = { .generation = pr_generation };
	struct scsi_cmnd *cmd = PR_COMMAND();
	struct scsi_device *device = 0;
	__u64 id = (__u64)cmd;

	pending.opcode = PR_FAST(cmd, cmnd[0]);
	if (!pr_is_ours(pending.opcode) || pr_active_generation() != pr_generation)
		return 0;
	PR_GET(device, cmd, device);
	pr_read_nexus(device, &pending.nexus);
	if (pending.opcode == PR_OPCODE_OUT && !pr_read_first(cmd, pending.head, PR_HEAD_SIZE))
		pending.head_length = PR_HEAD_SIZE;
	pending.start_ns = bpf_ktime_get_ns();
	pr_remember(id, &pending);
	return 0;
}

#endif

#endif
