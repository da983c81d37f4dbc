// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Watch PERSISTENT RESERVE and the legacy RESERVE/RELEASE on their way through the SCSI
 * midlayer, and count what reservations do to everything else.
 *
 *   submission  blk_execute_rq*()           who asks, still in the asking task; the parameter
 *                                           list, before the device sees it
 *   end         scsi_dispatch_cmd_done      CDB, list or reply, status, sense; one record
 *               ..._timeout, ..._error      an end without an answer
 *   over        blk_end_sync_rq()           an end that was not seen: a program was busy, or
 *                                           no driver ever had the command
 *
 * They are joined by the address of the scsi_cmnd, which a request keeps for life.  Only the
 * first lines of pr_on_done run for every SCSI command: between the two nothing is watched,
 * because whatever the midlayer does there it does for ordinary I/O as well.
 */
#ifndef PR_BCC
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#endif
#include "pr_record.h"
#include "pr_maps.h"
#include "pr_kernel.h"
#include "pr_data.h"
#include "pr_count.h"
#include "pr_submit.h"

#ifndef PR_BCC
char LICENSE[] SEC("license") = "GPL";
#endif

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

#define PR_DID_ERROR (7 << 16)	/* include/scsi/scsi_status.h */
#define PR_TIMED_OUT 0xffffffff	/* no scsi_cmnd::result */

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

/* Whether the end that a request which is over came to had its record. */
static __always_inline int pr_was_seen(struct pr_pending *pending, __u32 result)
{
	if (!pending || pending->state == PR_STATE_UNDER_WAY)
		return !pending;
	/* The midlayer writes a verdict of its own beside the status, in older kernels as host byte. */
	if (pending->state == PR_STATE_MAY_RETURN && pending->result != PR_TIMED_OUT &&
	    ((pending->result ^ result) & ((result & 0xff) ? 0xff : 0xff00ff)))
		return 0;
	pending->state = PR_STATE_ENDED;
	return 1;
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
	if (end->kind == PR_KIND_OVER && pr_was_seen(pending, end->result))
		return 0;
	if (!pending)
		return 1;
	if (pending->state == PR_STATE_ENDED) {
		/* Of an earlier request: nobody saw the submission of this one. */
		__builtin_memset(pending, 0, sizeof(*pending));
		pending->generation = pr_generation;
	}
	end->start_ns = pending->start_ns;
	end->attempt = ++pending->attempt;
	pending->start_ns = bpf_ktime_get_ns();
	pending->result = end->kind == PR_KIND_TIMEOUT ? PR_TIMED_OUT : end->result;
	if (end->kind == PR_KIND_ERROR)
		pending->state = PR_STATE_UNDER_WAY;
	else if (!end->result || end->result == PR_STATUS_RESERVATION_CONFLICT ||
		 end->kind == PR_KIND_OVER)
		pending->state = PR_STATE_ENDED;
	else
		pending->state = PR_STATE_MAY_RETURN;
	return 1;
}

PR_APART int pr_count_own(struct pr_ended *end)
{
	struct pr_nexus nexus;
	__u32 cause;

	if (!end || !(end->result & 0xff) ||
	    (end->kind != PR_KIND_DONE && end->kind != PR_KIND_OVER))
		return 0;
	nexus = end->nexus;
	cause = pr_cause(end->command, end->result & 0xff);
	if (cause < PR_CAUSES)
		pr_count_cause(&nexus, cause + PR_CAUSES, bpf_ktime_get_ns());
	return 0;
}

/* One record of a command whose data is gone: its list is that of the submission. */
PR_APART int pr_put_over(struct pr_ended *end)
{
	struct pr_record *record;
	struct pr_nexus nexus;

	if (!end)
		return 0;
	record = PR_RESERVE(pr_events, sizeof(*record) + PR_HEAD_SIZE);
	if (!record) {
		nexus = end->nexus;
		return pr_note_loss(end->device, &nexus, PR_STAT_RING_FULL);
	}
	pr_fill(record, end);
	__builtin_memcpy(record->data, record->head, PR_HEAD_SIZE);
	record->data_length = record->head_length;
	if (record->data_length < record->transfer_length) {
		record->flags |= PR_FLAG_UNREADABLE;
		pr_add(PR_STAT_UNREADABLE, 1);
	}
	pr_add(PR_STAT_SUBMITTED, 1);
	PR_SUBMIT(pr_events, record);
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
	end.sequence = pr_next_sequence();
	pr_add(PR_STAT_SEEN, 1);
	if (kind == PR_KIND_OVER)
		return pr_put_over(&end);
	want = pr_data_length(command);
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

#ifndef PR_NO_FENTRY

static __always_inline int pr_on_over(struct request *rq, __u8 error)
{
	struct scsi_cmnd *cmd = pr_command(rq);
	__u8 opcode = 0;
	__u32 result = 0;

	if (PR_GET(opcode, cmd, cmnd[0]) || !pr_is_ours(opcode) || !pr_device(rq))
		return 0;
	PR_GET(result, cmd, result);
	if (error && !result)
		result = PR_DID_ERROR;	/* it never reached the midlayer */
	return pr_end((__u64)cmd, PR_KIND_OVER, result);
}

PR_ON_CALL(pr_over_waited_for, blk_end_sync_rq)
{
	return pr_on_over(PR_CALLED_WITH(struct request *), PR_AND_WITH(__u8));
}

#ifndef PR_BCC	/* see pr_bsg */
PR_ON_CALL(pr_over_sg, sg_rq_end_io)
{
	return pr_on_over(PR_CALLED_WITH(struct request *), PR_AND_WITH(__u8));
}
#endif

#endif
