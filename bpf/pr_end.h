/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end: one record of each attempt of a PR command, and what reservations did to other commands.
 */
#ifndef PR_END_H
#define PR_END_H

#define PR_DID_ERROR (7 << 16)	/* include/scsi/scsi_status.h */

/*
 * Which programs see a request's end.  Two see each, because the kernel skips programs: a kprobe's on
 * top of any other kprobe's on the same processor; another one's on top of itself, and where tasks are
 * preempted in programs, while one is.  Whichever comes second finds that the request has ended.
 */
enum pr_seer {
	PR_SEER_TRACEPOINT = 1,
	PR_SEER_KPROBE = 2,	/* of the function that ends the request */
	PR_SEER_FENTRY = 4,	/* of the same */
	PR_SEER_WAITER = 8,	/* fexit of the function that waits for the end */
};

/* What is known of a command's end before there is room for its record. */
struct pr_ended {
	__u64 command;
	__u64 device;
	struct pr_nexus nexus;
	__u64 sequence;	/* 0: of a sample */
	__u64 start_ns;
	__u64 life;
	__u32 attempt;
	__u32 kind;
	__u32 result;
	__u32 seer;	/* 0: neither of those that see a request's end */
	__u32 place;	/* enum pr_place: where the data is now */
	__u32 reserved;	/* the verifier wants every byte written */
};

/*
 * Turn a BTF pointer into a number: a global function may not take a pointer to a type of the
 * kernel's.
 */
static __always_inline __u64 pr_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

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
	record->transfer_length = pending->data_length;
	record->head_length = pending->head_length;
	__builtin_memcpy(record->comm, pending->comm, PR_COMM_SIZE);
	__builtin_memcpy(record->head, pending->head, PR_HEAD_SIZE);
	__builtin_memcpy(record->exe, pending->exe, PR_EXE_SIZE);
}

/* What the command and its device say. */
__noinline int pr_fill(struct pr_record *record, struct pr_ended *end)
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
	record->life = end->life;
	record->host = end->nexus.host;
	record->channel = end->nexus.channel;
	record->target = end->nexus.target;
	record->lun = end->nexus.lun;
	PR_GET(cdb_length, cmd, cmd_len);
	record->cdb_length = cdb_length < PR_CDB_SIZE ? cdb_length : PR_CDB_SIZE;
	bpf_probe_read_kernel(record->cdb, PR_CDB_SIZE, (void *)pr_cdb(cmd));
	record->resid = pr_resid(cmd);
	if ((result & 0xff) == PR_STATUS_CHECK_CONDITION) {
		PR_GET(sense, cmd, sense_buffer);
		if (sense && !bpf_probe_read_kernel(record->sense, PR_SENSE_SIZE, sense))
			record->sense_length = PR_SENSE_SIZE;
	}
	pr_read_inquiry(device, record->inquiry);
	record->page83_length = pr_read_page83(device, record->page83);
	return 0;
}

/* Number a record, and say what its submission told. */
__noinline int pr_fill_submitted(struct pr_record *record, struct pr_ended *end)
{
	__u64 id;

	if (!record || !end)
		return 0;
	id = end->command;
	record->seq = end->sequence;
	record->lost = pr_stat(PR_STAT_RING_FULL) + pr_stat(PR_STAT_MISSED);
	record->start_ns = end->start_ns;
	record->attempt = end->attempt;
	pr_fill_history(record, bpf_map_lookup_elem(&pr_pendings, &id));
	return 0;
}

/* How many bytes of a command's data are worth keeping. */
__noinline __u32 pr_data_length(struct pr_ended *end)
{
	struct pr_pending *pending;
	struct scsi_cmnd *cmd;
	__u32 length, resid;
	__u8 cdb[2] = {};
	__u64 id;

	if (!end)
		return 0;
	id = end->command;
	cmd = (void *)id;
	pending = bpf_map_lookup_elem(&pr_pendings, &id);
	if (!pending)
		return 0;
	length = pending->data_length;
	bpf_probe_read_kernel(cdb, sizeof(cdb), (void *)pr_cdb(cmd));
	if (cdb[0] != PR_OPCODE_IN)
		return length;
	resid = pr_resid(cmd);
	if (resid <= length)
		length -= resid;
	if ((cdb[1] & 0x1f) == 2)	/* REPORT CAPABILITIES: 8 bytes, no ADDITIONAL LENGTH */
		return length < 8 ? length : 8;
	return pr_reply_length(pending, end->place, length);
}

/* Copy want bytes of the command's data behind record, which has room for cap + chunk. */
static __always_inline void pr_copy_data(struct pr_record *record, struct pr_ended *end, __u32 want,
					 __u32 cap, __u32 chunk)
{
	__u64 id = end->command;
	struct pr_pending *pending = bpf_map_lookup_elem(&pr_pendings, &id);

	if (want > cap) {
		record->flags |= PR_FLAG_TRUNCATED;
		want = cap;
	}
	if (pending && end->place == PR_PLACE_HEAD) {
		__builtin_memcpy(record->data, pending->head, PR_HEAD_SIZE);
		record->data_length = pending->head_length;
	} else if (pending) {
		pr_walk_from_start(pending, end->place, want);
		PR_COPY(record->data, &pending->walk, chunk, cap, 10);
		record->data_length = pending->walk.copied;
	}
	if (record->data_length < want) {
		record->flags |= PR_FLAG_UNREADABLE;
		pr_add(PR_STAT_UNREADABLE, 1);
	}
}

/*
 * One record of a PR command, with want bytes of data.  cap and chunk are constants, so that the
 * ring can be asked for a constant size.
 */
static __always_inline int pr_put(struct pr_ended *end, __u32 want, __u32 cap, __u32 chunk)
{
	struct pr_record *record =
		bpf_ringbuf_reserve(&pr_events, sizeof(struct pr_record) + cap + chunk, 0);

	if (!record) {
		pr_note_loss(end->device, 0, &end->nexus, PR_STAT_RING_FULL);
		return 0;
	}
	pr_fill(record, end);
	pr_fill_submitted(record, end);
	pr_copy_data(record, end, want, cap, chunk);
	pr_add(PR_STAT_SUBMITTED, 1);
	bpf_ringbuf_submit(record, 0);
	return 0;
}

/* The self-test's command: a record that is not numbered, in the ring of the samples. */
__noinline int pr_put_test(struct pr_ended *end)
{
	struct pr_record *record;
	__u32 want;

	if (!end)
		return 0;
	want = pr_data_length(end);
	record = bpf_ringbuf_reserve(&pr_samples, sizeof(*record) + 2 * PR_DATA_SMALL, 0);
	if (!record)
		return 0;
	end->kind = PR_KIND_TEST;
	pr_fill(record, end);
	pr_fill_submitted(record, end);
	pr_copy_data(record, end, want, PR_DATA_SMALL, PR_DATA_SMALL);
	bpf_ringbuf_submit(record, 0);
	return 0;
}

/* Whether an earlier program has told the end to which seer comes now. */
static __always_inline int pr_is_told(struct pr_pending *pending, __u32 result, __u32 seer)
{
	if (pending->state == PR_STATE_MAY_RETURN && seer != PR_SEER_TRACEPOINT) {
		/*
		 * The tracepoint told an end.  It was not this one if the status is another.  The
		 * midlayer writes a verdict of its own beside the status, in older kernels as host byte.
		 */
		if ((pending->result ^ result) & ((result & 0xff) ? 0xff : 0xff00ff))
			return 0;
		pending->state = PR_STATE_ENDED;
	}
	/* The same program twice: that is another request, whose submission nobody saw. */
	if (pending->state != PR_STATE_ENDED || (pending->seen & seer))
		return 0;
	pending->seen |= seer;
	return 1;
}

/*
 * Returns whether these programs answer for an end that is not told yet, and that deserves a record.
 * If there is another attempt the device gets it after now.
 */
__noinline int pr_finish(struct pr_ended *end)
{
	struct pr_pending *pending;
	__u32 kind, seer;
	__u64 id;

	if (!end)
		return 0;
	id = end->command;
	kind = end->kind;
	seer = end->seer;
	pending = bpf_map_lookup_elem(&pr_pendings, &id);
	if (!pr_answers_for(pending))
		return 0;
	/*
	 * The end was told by programs of an older generation, and forgotten with them, before the
	 * waiting task came to run.
	 */
	if (!pending && seer == PR_SEER_WAITER)
		return 0;
	if (pending && seer && pr_is_told(pending, end->result, seer)) {
		if ((pending->seen & PR_SEER_FENTRY) &&
		    (pending->seen & (PR_SEER_KPROBE | PR_SEER_WAITER)))
			bpf_map_delete_elem(&pr_pendings, &id);
		return 0;
	}
	if (!pending || pending->state == PR_STATE_ENDED) {
		/* Nobody saw the submission. */
		pending = pr_entry(id);
		end->attempt = 1;
		if (!pending)
			return 1;
		__builtin_memset(pending, 0, sizeof(*pending));
		pending->generation = pr_generation;
		pending->nexus = end->nexus;
	}
	if (kind == PR_KIND_TIMEOUT && pending->state == PR_STATE_TIMED_OUT)
		return 0;	/* the transport has asked for more time once more */
	if (kind == PR_KIND_OVER && !seer && pending->state == PR_STATE_MAY_RETURN) {
		pending->state = PR_STATE_UNDER_WAY;	/* the tracepoint told that attempt */
		return 0;
	}
	if (kind == PR_KIND_ERROR && pending->refused) {
		/* A driver that is busy refuses one command hundreds of times. */
		pending->attempt++;
		pending->start_ns = bpf_ktime_get_ns();
		return 0;
	}
	if (kind == PR_KIND_DONE && pending->state == PR_STATE_TIMED_OUT)
		end->kind = kind = PR_KIND_OVER;
	end->place = seer == PR_SEER_TRACEPOINT && pending->bio ? PR_PLACE_BIO : pending->place;
	if (!seer)
		end->place = PR_PLACE_HEAD;
	end->start_ns = pending->start_ns;
	end->attempt = ++pending->attempt;
	pending->refused = kind == PR_KIND_ERROR;
	if (kind == PR_KIND_TIMEOUT) {
		/* Until the request is over the device may still carry it out. */
		pending->state = PR_STATE_TIMED_OUT;
		pending->attempt--;
		return 1;
	}
	pending->start_ns = bpf_ktime_get_ns();
	pending->result = end->result;
	pending->seen = seer;
	if (!seer)
		pending->state = PR_STATE_UNDER_WAY;
	else if (seer == PR_SEER_TRACEPOINT && end->result &&
		 end->result != PR_STATUS_RESERVATION_CONFLICT)
		pending->state = PR_STATE_MAY_RETURN;
	else
		pending->state = PR_STATE_ENDED;
	return 1;
}

__noinline int pr_count_own(struct pr_ended *end)
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

/* The self-test's commands are watched as long as there is an entry of them. */
static __always_inline int pr_is_test(__u64 id)
{
	struct pr_pending *pending = bpf_map_lookup_elem(&pr_pendings, &id);

	return pending && pending->test;
}

/*
 * An attempt of a PR command ended.  Its record is numbered before there is room for it, so that a
 * full ring shows as a gap as well as in the counters.
 */
__noinline int pr_end(__u64 command, __u32 kind, __u32 result, __u32 seer)
{
	struct pr_ended end = { .command = command, .kind = kind, .result = result, .seer = seer };
	struct scsi_cmnd *cmd = (void *)command;
	struct scsi_device *device = 0;
	__u32 want;

	PR_GET(device, cmd, device);
	end.device = (__u64)device;
	end.life = pr_life(device);
	pr_read_nexus(device, &end.nexus);
	if (!pr_finish(&end))
		return 0;
	if (pr_is_test(command))
		return pr_put_test(&end);
	pr_count_own(&end);
	end.sequence = pr_next_sequence();
	if (!end.sequence) {
		pr_note_loss(end.device, 0, &end.nexus, PR_STAT_MISSED);
		return 0;
	}
	pr_add(PR_STAT_SEEN, 1);
	want = pr_data_length(&end);
	if (want <= PR_DATA_SMALL)
		return pr_put(&end, want, PR_DATA_SMALL, PR_DATA_SMALL);
	if (want <= PR_DATA_MEDIUM)
		return pr_put(&end, want, PR_DATA_MEDIUM, PR_DATA_MEDIUM);
	return pr_put(&end, want, PR_DATA_LARGE, 4096);
}

/* Another command met a reservation: count it, and let a few a second through. */
__noinline int pr_other(__u64 command, __u32 result)
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
	end.life = pr_life(device);
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
	record = bpf_ringbuf_reserve(&pr_samples, sizeof(*record), 0);
	if (!record) {
		pr_add(PR_STAT_SAMPLE_RING_FULL, 1);
		return 0;
	}
	pr_fill(record, &end);
	pr_add(PR_STAT_SAMPLES, 1);
	bpf_ringbuf_submit(record, 0);
	return 0;
}

/* rq->end_io() is about to run: a passthrough request is over. */
static __always_inline int pr_on_over(struct request *rq, __u8 error, __u32 seer)
{
	struct scsi_cmnd *cmd = pr_command(rq);
	__u64 id = (__u64)cmd;
	__u32 result = 0;
	__u8 opcode = 0;

	if (bpf_probe_read_kernel(&opcode, 1, (void *)pr_cdb(cmd)))
		return 0;
	if (pr_is_ours(opcode) || (opcode == PR_OPCODE_INQUIRY && pr_is_test(id))) {
		if (!pr_device(rq))
			return 0;
		PR_GET(result, cmd, result);
		if (error && !result)
			result = PR_DID_ERROR;	/* it never reached the midlayer */
		return pr_end(id, PR_KIND_DONE, result, seer);
	}
	/* The tracepoint counts conflicts itself; and each is to be counted once. */
	if (!error || pr_tracepoint || seer != PR_SEER_FENTRY || !pr_device(rq))
		return 0;
	PR_GET(result, cmd, result);
	if ((result & 0xff) != PR_STATUS_RESERVATION_CONFLICT)
		return 0;
	return pr_other(id, result);
}

/*
 * The fallback, which every command passes: see prtrace/probe/programs.py.  What few of them need is
 * a function of its own, so that the entry has no stack and no registers to save.
 */
PR_SLOW int pr_end_at_done(struct scsi_cmnd *cmd, __u32 result)
{
	return pr_end(pr_number(cmd), PR_KIND_DONE, result, PR_SEER_TRACEPOINT);
}

PR_SLOW int pr_other_at_done(struct scsi_cmnd *cmd, __u32 result)
{
	if ((result & 0xff) != PR_STATUS_RESERVATION_CONFLICT && !(pr_tracepoint & PR_TRACEPOINT_SENSE))
		return 0;
	return pr_other(pr_number(cmd), result);
}

static __always_inline int pr_on_done_with(struct scsi_cmnd *cmd, __u8 opcode, __u32 result)
{
	if (pr_is_ours(opcode) ||
	    (opcode == PR_OPCODE_INQUIRY && pr_is_test(pr_number(cmd))))
		return pr_end_at_done(cmd, result);
	return result & 0xff ? pr_other_at_done(cmd, result) : 0;
}

#endif
