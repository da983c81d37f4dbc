// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Watch PERSISTENT RESERVE and the legacy RESERVE/RELEASE on their way through the SCSI
 * midlayer, and count what reservations do to everything else.
 *
 *   submission  blk_execute_rq*()           who asks, still in the asking task; the parameter
 *                                           list, before the device sees it
 *   end         scsi_dispatch_cmd_done      CDB, list or reply, status, sense; one record
 *               ..._timeout, ..._error      an end without an answer
 *
 * The two are joined by the address of the scsi_cmnd, which a request keeps for life.  Only the
 * first lines of pr_on_done run for every SCSI command: between the two nothing is watched,
 * because whatever the midlayer does there it does for ordinary I/O as well.
 */
#ifdef PR_BCC
#include "pr_record.h"
#include "pr_maps.h"
#include "pr_kernel.h"
#else
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "pr_record.h"
#include "pr_maps.h"
#include "pr_kernel.h"

char LICENSE[] SEC("license") = "GPL";
#endif

#define PR_STATUS_CHECK_CONDITION 0x02
#define PR_STATUS_RESERVATION_CONFLICT 0x18
#define PR_UNIT_ATTENTION 0x06

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

/*
 * The address of a command as a number: what is done apart takes no pointer of the kernel's,
 * and the verifier has no other way to let go of what it knows of one.
 */
static __always_inline __u64 pr_number(struct scsi_cmnd *cmd)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &cmd);
	return number;
}

static __always_inline void pr_add(__u32 stat, __u64 n)
{
	__u64 *value = PR_LOOKUP(pr_stats, &stat);

	if (value)
		__sync_fetch_and_add(value, n);
}

static __always_inline __u64 pr_stat(__u32 stat)
{
	__u64 *value = PR_LOOKUP(pr_stats, &stat);

	return value ? *value : 0;
}

static __always_inline __u64 pr_next_sequence(void)
{
	__u32 zero = 0;
	__u64 *value = PR_LOOKUP(pr_sequence, &zero);

	return value ? __sync_fetch_and_add(value, 1) + 1 : 0;
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

/* stat: PR_STAT_RING_FULL or PR_STAT_MISSED.  device: 0 where only the nexus is known. */
PR_APART int pr_note_loss(__u64 device, struct pr_nexus *on, __u32 stat)
{
	struct pr_loss first = {}, *loss;
	struct pr_nexus nexus;

	if (!on)
		return 0;
	nexus = *on;	/* a key has to be on the stack */
	pr_add(stat, 1);
	loss = PR_LOOKUP(pr_losses, &nexus);
	if (!loss) {
		if (device) {
			pr_read_inquiry((void *)device, first.inquiry);
			first.page83_length = pr_read_page83((void *)device, first.page83);
		}
		PR_INSERT(pr_losses, &nexus, &first);
		loss = PR_LOOKUP(pr_losses, &nexus);
	}
	if (!loss) {
		pr_add(PR_STAT_LOST_MAP_FULL, 1);
		return 0;
	}
	if (stat == PR_STAT_MISSED)
		__sync_fetch_and_add(&loss->missed, 1);
	else
		__sync_fetch_and_add(&loss->count, 1);
	loss->last_ns = bpf_ktime_get_ns();
	return 0;
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

/* --- submission ---------------------------------------------------------------------- */

#ifndef PR_NO_FENTRY

enum pr_program {
	PR_FIRST,
	PR_SECOND,
};

#ifndef PR_BCC
/*
 * A kernel that preempts programs skips one that a task on the same processor is in.  So there
 * are two of each, which run one after the other, in whatever order.  Whoever finds that the
 * other one has been here has nothing left to do.
 */
static __always_inline int pr_was_done(__u64 command, __u32 program)
{
	struct pr_turn turn = { .command = command, .program = program }, *taken;
	__u64 thread = bpf_get_current_pid_tgid();

	taken = PR_LOOKUP(pr_turns, &thread);
	/* What the program itself left is of an earlier request, where the other was skipped. */
	if (taken && taken->command == command && taken->program != program) {
		PR_DELETE(pr_turns, &thread);
		return 1;
	}
	PR_UPDATE(pr_turns, &thread, &turn);
	return 0;
}
#else	/* a name for each function: libbcc attaches one program to it */
static __always_inline int pr_was_done(__u64 command, __u32 program)
{
	return 0;
}
#endif

static __always_inline int pr_on_submit(struct request *rq, __u8 issue, __u32 program)
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
	if (!device || pr_active_generation() != pr_generation || pr_was_done(id, program))
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

PR_ON_ENTRY(pr_submit, blk_execute_rq)
{
	return pr_on_submit(PR_ARGUMENT(struct request *, 0), 0, PR_FIRST);
}

PR_ON_ENTRY(pr_submit_nowait, blk_execute_rq_nowait)
{
	return pr_on_submit(PR_ARGUMENT(struct request *, 0), PR_ISSUE_NOWAIT, PR_FIRST);
}

#ifndef PR_BCC
PR_ON_ENTRY(pr_submit_again, blk_execute_rq)
{
	return pr_on_submit(PR_ARGUMENT(struct request *, 0), 0, PR_SECOND);
}

PR_ON_ENTRY(pr_submit_nowait_again, blk_execute_rq_nowait)
{
	return pr_on_submit(PR_ARGUMENT(struct request *, 0), PR_ISSUE_NOWAIT, PR_SECOND);
}
#endif

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

/* --- end ----------------------------------------------------------------------------- */

/* What is known of a command's end before there is room for its record. */
struct pr_ended {
	__u64 command;
	__u64 device;
	struct pr_nexus nexus;
	__u64 sequence;	/* 0: of a sample */
	__u64 start_ns;
	__u32 attempt;
	__u32 kind;
	__u32 result;
	__u32 reserved;	/* the verifier wants every byte written */
};

static __always_inline void pr_fill_history(struct pr_record *record,
					    const struct pr_pending *pending)
{
	if (!pending || !pending->submit_ns) {
		record->flags |= PR_FLAG_NOT_SUBMITTED;
		pr_add(PR_STAT_NOT_SUBMITTED, 1);
	}
	if (!pending)
		return;
	record->submit_ns = pending->submit_ns;
	record->issuer_start_ns = pending->issuer_start_ns;
	record->cgroup = pending->cgroup;
	record->pid = pending->pid;
	record->ioctl = pending->ioctl;
	record->requested = pending->requested;
	record->issue = pending->issue;
	__builtin_memcpy(record->comm, pending->comm, PR_COMM_SIZE);
	record->head_length = pending->head_length;
	__builtin_memcpy(record->head, pending->head, PR_HEAD_SIZE);
}

/* Everything of a record but its data. */
PR_APART int pr_fill(struct pr_record *record, struct pr_ended *end)
{
	struct scsi_device *device;
	struct scsi_cmnd *cmd;
	void *sense = 0;
	__u16 cdb_length = 0;
	__u32 result;
	__u64 id;

	if (!record || !end)
		return 0;
	id = end->command;
	cmd = (void *)id;
	device = (void *)end->device;
	result = end->result;
	/* The ring hands out whatever it held before: clear before filling. */
	__builtin_memset(record, 0, sizeof(*record));
	record->abi = PR_ABI;
	record->kind = end->kind;
	record->generation = pr_generation;
	record->done_ns = bpf_ktime_get_ns();
	record->result = result;
	record->host = end->nexus.host;
	record->channel = end->nexus.channel;
	record->target = end->nexus.target;
	record->lun = end->nexus.lun;
	PR_GET(cdb_length, cmd, cmd_len);
	record->cdb_length = cdb_length < PR_CDB_SIZE ? cdb_length : PR_CDB_SIZE;
	bpf_probe_read_kernel(record->cdb, PR_CDB_SIZE, (void *)PR_ADDRESS(cmd, cmnd));
	PR_GET(record->transfer_length, cmd, sdb.length);
	PR_GET(record->resid, cmd, resid_len);
	if ((result & 0xff) == PR_STATUS_CHECK_CONDITION) {
		PR_GET(sense, cmd, sense_buffer);
		if (sense && !bpf_probe_read_kernel(record->sense, PR_SENSE_SIZE, sense))
			record->sense_length = PR_SENSE_SIZE;
	}
	pr_read_inquiry(device, record->inquiry);
	record->page83_length = pr_read_page83(device, record->page83);
	if (!end->sequence)
		return 0;
	record->seq = end->sequence;
	record->lost = pr_stat(PR_STAT_RING_FULL) + pr_stat(PR_STAT_MISSED);
	record->start_ns = end->start_ns;
	record->attempt = end->attempt;
	pr_fill_history(record, PR_LOOKUP(pr_pendings, &id));
	return 0;
}

/* How many bytes of data are worth keeping: of a reply, what it says it holds. */
PR_APART __u32 pr_data_length(__u64 command)
{
	struct scsi_cmnd *cmd = (void *)command;
	__u32 length = 0, resid = 0, claim;
	__u8 cdb[2] = {}, head[8] = {};

	bpf_probe_read_kernel(cdb, sizeof(cdb), (void *)PR_ADDRESS(cmd, cmnd));
	PR_GET(length, cmd, sdb.length);
	if (cdb[0] != PR_OPCODE_IN)
		return length;
	PR_GET(resid, cmd, resid_len);
	if (resid <= length)
		length -= resid;
	if ((cdb[1] & 0x1f) == 2)	/* REPORT CAPABILITIES: 8 bytes, no ADDITIONAL LENGTH */
		return length < 8 ? length : 8;
	if (pr_read_first(cmd, head, 8))
		return length;
	claim = (__u32)head[4] << 24 | (__u32)head[5] << 16 | (__u32)head[6] << 8 | head[7];
	if (claim < length && claim + 8 < length)
		length = claim + 8;
	return length;
}

/*
 * One record of a PR command, with want bytes of data.  cap, chunk and steps are constants,
 * so that the ring can be asked for a constant size.
 */
static __always_inline int pr_put(struct pr_ended *end, __u32 want, __u32 cap, __u32 chunk,
				  int steps)
{
	volatile struct pr_walk *walk;
	struct scsi_cmnd *cmd = (void *)end->command;
	struct pr_record *record;
	__u64 sg = 0;
	int i;

	record = PR_RESERVE(pr_events, sizeof(*record) + cap + chunk + sizeof(*walk));
	if (!record) {
		pr_note_loss(end->device, &end->nexus, PR_STAT_RING_FULL);
		return 0;
	}
	pr_fill(record, end);
	if (want > cap) {
		record->flags |= PR_FLAG_TRUNCATED;
		want = cap;
	}
	walk = (void *)(record->data + cap + chunk);
	PR_GET(sg, cmd, sdb.table.sgl);
	walk->sg = sg;
	walk->length = 0;
	walk->inside = 0;
	walk->copied = 0;
	walk->want = want;
	/* A loop may end with a call, and Linux 6.1 takes what follows one for no loop's beginning. */
#pragma unroll
	for (i = 0; i < steps; i++)
		if (!pr_copy_step(record->data, walk, chunk, cap))
			break;
	record->data_length = walk->copied;
	if (record->data_length < walk->want) {
		record->flags |= PR_FLAG_UNREADABLE;
		pr_add(PR_STAT_UNREADABLE, 1);
	}
	pr_add(PR_STAT_SUBMITTED, 1);
	PR_SUBMIT(pr_events, record);
	return 0;
}

/* What a command's end has to do with reservations; PR_CAUSES for nothing. */
PR_APART __u32 pr_cause(__u64 command, __u32 status)
{
	struct scsi_cmnd *cmd = (void *)command;
	__u8 code[2] = {}, format = 0, key = 0;
	__u64 sense = 0;

	if (status == PR_STATUS_RESERVATION_CONFLICT)
		return PR_CAUSE_CONFLICT;
	if (status != PR_STATUS_CHECK_CONDITION)
		return PR_CAUSES;
	PR_GET(sense, cmd, sense_buffer);
	if (!sense || bpf_probe_read_kernel(&format, 1, (void *)sense))
		return PR_CAUSES;
	if ((format & 0x7e) == 0x70) {		/* fixed format: 70h, 71h */
		bpf_probe_read_kernel(&key, 1, (void *)(sense + 2));
		bpf_probe_read_kernel(code, 2, (void *)(sense + 12));
	} else if ((format & 0x7e) == 0x72) {	/* descriptor format: 72h, 73h */
		bpf_probe_read_kernel(&key, 1, (void *)(sense + 1));
		bpf_probe_read_kernel(code, 2, (void *)(sense + 2));
	} else {
		return PR_CAUSES;
	}
	/* Told of a loss, under whatever sense key. */
	if (code[0] == 0x44 && code[1] == 0x01)
		return PR_CAUSE_INFORMATION_LOST;
	if ((key & 0xf) != PR_UNIT_ATTENTION)
		return PR_CAUSES;
	if (code[0] == 0x29)
		return PR_CAUSE_RESET;
	if (code[0] == 0x2a && code[1] >= 0x03 && code[1] <= 0x05)
		return PR_CAUSE_RESERVATIONS_PREEMPTED + code[1] - 0x03;
	return PR_CAUSES;
}

/* Count a cause on its nexus; returns the counters, or nothing if there is no room. */
static __always_inline struct pr_count *pr_count_cause(struct pr_nexus *nexus, __u32 cause,
						       __u64 now)
{
	struct pr_count *count = PR_LOOKUP(pr_counts, nexus);

	if (!count) {
		__u32 zero = 0;
		struct pr_count *empty = PR_LOOKUP(pr_no_count, &zero);

		if (empty)
			PR_INSERT(pr_counts, nexus, empty);
		count = PR_LOOKUP(pr_counts, nexus);
	}
	if (!count || cause >= 2 * PR_CAUSES) {
		pr_add(PR_STAT_COUNT_MAP_FULL, 1);
		return 0;
	}
	__sync_fetch_and_add(&count->count[cause], 1);
	if (!count->first_ns[cause])
		count->first_ns[cause] = now;
	count->last_ns[cause] = now;
	return count;
}

/*
 * Returns whether these programs answer for a command that ended, which is noted.  If there is
 * another attempt the device gets it after now.
 */
PR_APART int pr_finish(struct pr_ended *end)
{
	struct pr_pending *pending;
	__u64 id;

	if (!end)
		return 0;
	id = end->command;
	pending = PR_LOOKUP(pr_pendings, &id);
	if (!pr_answers_for(pending))
		return 0;
	end->attempt = 1;
	if (!pending)
		return 1;
	end->start_ns = pending->start_ns;
	end->attempt = ++pending->attempt;
	pending->start_ns = bpf_ktime_get_ns();
	if (end->kind == PR_KIND_ERROR)
		pending->state = PR_STATE_UNDER_WAY;
	else if (!end->result || end->result == PR_STATUS_RESERVATION_CONFLICT)
		pending->state = PR_STATE_ENDED;
	else
		pending->state = PR_STATE_MAY_RETURN;
	return 1;
}

PR_APART int pr_count_own(struct pr_ended *end)
{
	struct pr_nexus nexus;
	__u32 cause;

	if (!end || end->kind != PR_KIND_DONE || !(end->result & 0xff))
		return 0;
	nexus = end->nexus;
	cause = pr_cause(end->command, end->result & 0xff);
	if (cause < PR_CAUSES)
		pr_count_cause(&nexus, cause + PR_CAUSES, bpf_ktime_get_ns());
	return 0;
}

/*
 * One of ours ended.  Its record is numbered before there is room for it, so that a full ring
 * shows as a gap as well as in the counters.
 */
PR_APART int pr_end(__u64 command, __u32 kind, __u32 result)
{
	struct pr_ended end = { .command = command, .kind = kind, .result = result };
	struct scsi_cmnd *cmd = (void *)command;
	struct scsi_device *device = 0;
	__u32 want;

	if (!pr_finish(&end))
		return 0;
	PR_GET(device, cmd, device);
	end.device = (__u64)device;
	pr_read_nexus(device, &end.nexus);
	pr_count_own(&end);
	want = pr_data_length(command);
	end.sequence = pr_next_sequence();
	pr_add(PR_STAT_SEEN, 1);
	if (want <= PR_DATA_SMALL)
		return pr_put(&end, want, PR_DATA_SMALL, PR_DATA_SMALL, 3);
	if (want <= PR_DATA_MEDIUM)
		return pr_put(&end, want, PR_DATA_MEDIUM, PR_DATA_MEDIUM, 4);
	return pr_put(&end, want, PR_DATA_LARGE, 4096, 8);
}

/* A command that is none of ours met a reservation: count it, and let a few a second through. */
PR_APART int pr_other(__u64 command, __u32 result)
{
	struct pr_ended end = { .command = command, .kind = PR_KIND_SAMPLE, .result = result };
	struct scsi_cmnd *cmd = (void *)command;
	__u32 cause = pr_cause(command, result & 0xff);
	struct scsi_device *device = 0;
	struct pr_record *record;
	struct pr_count *count;
	__u64 now, second;

	if (cause >= PR_CAUSES || pr_active_generation() != pr_generation)
		return 0;
	now = bpf_ktime_get_ns();
	second = now / 1000000000;
	PR_GET(device, cmd, device);
	end.device = (__u64)device;
	pr_read_nexus(device, &end.nexus);
	count = pr_count_cause(&end.nexus, cause, now);
	if (!count)
		return 0;
	if (count->window != second) {
		count->window = second;
		count->samples = 0;
	}
	if (count->samples >= PR_SAMPLES_PER_SECOND) {
		pr_add(PR_STAT_SAMPLES_LIMITED, 1);
		return 0;
	}
	__sync_fetch_and_add(&count->samples, 1);
	record = PR_RESERVE(pr_samples, sizeof(*record));
	if (!record) {
		pr_add(PR_STAT_SAMPLE_RING_FULL, 1);
		return 0;
	}
	pr_fill(record, &end);
	pr_add(PR_STAT_SAMPLES, 1);
	PR_SUBMIT(pr_samples, record);
	return 0;
}

PR_SLOW int pr_emit(struct scsi_cmnd *cmd, __u32 kind, __u32 result)
{
	return pr_end(pr_number(cmd), kind, result);
}

PR_SLOW int pr_note_other(struct scsi_cmnd *cmd, __u32 result)
{
	return pr_other(pr_number(cmd), result);
}

PR_ON_COMMAND(pr_on_done, scsi_dispatch_cmd_done)
{
	struct scsi_cmnd *cmd = PR_COMMAND();
	__u32 result;

	/*
	 * Since Linux kernel commit 838a10bd2ebf ("bpf: Augment raw_tp arguments with
	 * PTR_MAYBE_NULL") (in v6.13, and in 6.12.y), arguments of a module's tracepoints may
	 * be NULL as far as the verifier knows.
	 */
	if (!cmd)
		return 0;
	result = PR_FAST(cmd, result);
	if (!pr_is_ours(PR_FAST(cmd, cmnd[0]))) {
		if (!(result & 0xff))
			return 0;
		return pr_note_other(cmd, result);
	}
	return pr_emit(cmd, PR_KIND_DONE, result);
}

PR_ON_COMMAND(pr_on_timeout, scsi_dispatch_cmd_timeout)
{
	struct scsi_cmnd *cmd = PR_COMMAND();

	if (!cmd || !pr_is_ours(PR_FAST(cmd, cmnd[0])))
		return 0;
	return pr_emit(cmd, PR_KIND_TIMEOUT, PR_FAST(cmd, result));
}

PR_ON_COMMAND(pr_on_error, scsi_dispatch_cmd_error)
{
	struct scsi_cmnd *cmd = PR_COMMAND();

	if (!cmd || !pr_is_ours(PR_FAST(cmd, cmnd[0])))
		return 0;
	return pr_emit(cmd, PR_KIND_ERROR, PR_FAST(cmd, result));
}
