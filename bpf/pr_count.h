/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is counted: the programs' own figures, what was lost, and what reservations did to the
 * commands of each nexus.
 */
#ifndef PR_COUNT_H
#define PR_COUNT_H

#define PR_STATUS_CHECK_CONDITION 0x02
#define PR_STATUS_RESERVATION_CONFLICT 0x18
#define PR_UNIT_ATTENTION 0x06

static __always_inline void pr_add(__u32 stat, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&pr_stats, &stat);

	if (value)
		__sync_fetch_and_add(value, n);
}

static __always_inline __u64 pr_stat(__u32 stat)
{
	__u64 *value = bpf_map_lookup_elem(&pr_stats, &stat);

	return value ? *value : 0;
}

#ifdef PR_NO_FETCH

/*
 * Until Linux 5.12 an addition did not return what was there before.  So a number is taken by being
 * the first to put it into a map.  pr_sequence counts the numbers that were taken, and lags behind by
 * those that other processors are just taking: that many are tried in vain, at most.
 * Old numbers leave the map.  A processor that is held up between its look at pr_sequence and its
 * turn, for longer than they stay there, would take a number again: it takes none.
 */
static __always_inline __u64 pr_next_sequence(void)
{
	__u32 zero = 0;
	__u64 *taken = bpf_map_lookup_elem(&pr_sequence, &zero), number, old;
	__u8 mark = 0;
	int i;

	if (!taken)
		return 0;
	number = *taken;
	_Pragma("unroll")
	for (i = 0; i < 64; i++) {
		number++;
		if (bpf_map_update_elem(&pr_numbers, &number, &mark, BPF_NOEXIST))
			continue;
		if (*(volatile __u64 *)taken > number + PR_NUMBERS / 4) {
			bpf_map_delete_elem(&pr_numbers, &number);
			return 0;
		}
		__sync_fetch_and_add(taken, 1);
		old = number - PR_NUMBERS / 2;
		bpf_map_delete_elem(&pr_numbers, &old);
		return number;
	}
	return 0;
}

#else

static __always_inline __u64 pr_next_sequence(void)
{
	__u32 zero = 0;
	__u64 *value = bpf_map_lookup_elem(&pr_sequence, &zero);

	return value ? __sync_fetch_and_add(value, 1) + 1 : 0;
}

#endif

static __always_inline int pr_same_page83(struct pr_loss *one, struct pr_loss *other)
{
	__u64 *a = (__u64 *)one->page83, *b = (__u64 *)other->page83;
	__u64 unlike = one->page83_length ^ other->page83_length;
	int i;

	_Pragma("unroll")
	for (i = 0; i < PR_PAGE83_SIZE / 8; i++)
		unlike |= a[i] ^ b[i];
	return !unlike;
}

/*
 * Count a record that is lost.  stat: PR_STAT_RING_FULL or PR_STAT_MISSED.  The unit is told by the
 * device or, where the device may be gone, by what was remembered of it; one of the two is 0.
 *
 * The kernel gives an H:C:T:L to one unit after the other, and an entry is never deleted.  A loss
 * that another unit than the entry's has had is counted as nobody's, which puts all units in doubt.
 * Only then the entry becomes that unit's: whoever reads the entry first and PR_STAT_LOST_MAP_FULL
 * afterwards has no loss of the unit before without that.
 */
__noinline int pr_note_loss(__u64 device, struct pr_pending *pending, struct pr_nexus *on, __u32 stat)
{
	struct pr_loss now = {}, *loss;
	struct pr_nexus nexus;

	if (!on)
		return 0;
	nexus = *on;	/* a key has to be on the stack */
	pr_add(stat, 1);
	if (pending) {
		__builtin_memcpy(now.inquiry, pending->inquiry, PR_INQUIRY_SIZE);
		now.page83_length = pending->page83_length;
		__builtin_memcpy(now.page83, pending->page83, PR_PAGE83_SIZE);
	} else if (device) {
		pr_read_inquiry((void *)device, now.inquiry);
		now.page83_length = pr_read_page83((void *)device, now.page83);
	}
	loss = bpf_map_lookup_elem(&pr_losses, &nexus);
	if (!loss) {
		bpf_map_update_elem(&pr_losses, &nexus, &now, BPF_NOEXIST);
		loss = bpf_map_lookup_elem(&pr_losses, &nexus);
	}
	if (!loss) {
		pr_add(PR_STAT_LOST_MAP_FULL, 1);
		return 0;
	}
	if (!pr_same_page83(loss, &now)) {
		pr_add(PR_STAT_LOST_MAP_FULL, 1);
		__builtin_memcpy(loss->inquiry, now.inquiry, PR_INQUIRY_SIZE);
		loss->page83_length = now.page83_length;
		__builtin_memcpy(loss->page83, now.page83, PR_PAGE83_SIZE);
		return 0;
	}
	if (stat == PR_STAT_MISSED)
		__sync_fetch_and_add(&loss->missed, 1);
	else
		__sync_fetch_and_add(&loss->count, 1);
	loss->last_ns = bpf_ktime_get_ns();
	return 0;
}

/* What a command's end has to do with reservations; PR_CAUSES for nothing. */
__noinline __u32 pr_cause(__u64 command, __u32 status)
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
	struct pr_count *count = bpf_map_lookup_elem(&pr_counts, nexus);

	if (!count) {
		__u32 zero = 0;
		struct pr_count *empty = bpf_map_lookup_elem(&pr_no_count, &zero);

		if (empty)
			bpf_map_update_elem(&pr_counts, nexus, empty, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&pr_counts, nexus);
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

#endif
