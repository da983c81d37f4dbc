/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The maps, as libbpf wants them declared and as bcc does.
 *
 * Programs use them by the helpers' own names.  bcc knows methods of a map instead, and takes none
 * from a macro: prtrace/probe/bcc.py writes bpf_map_lookup_elem(&map, ...) and its kin as the methods
 * that they stand for, before bcc sees the source.
 */
#ifndef PR_MAPS_H
#define PR_MAPS_H

/*
 * Commands under way at the same time, and those whose end not all programs saw, which the agent
 * forgets after a minute.  No LRU map: that recycles entries in use where processors are many.
 */
#define PR_PENDING_ENTRIES 8192
#define PR_NEXUS_ENTRIES 32768

/* Indexes into pr_active. */
#define PR_ACTIVE_GENERATION 0	/* which programs answer for new requests */
#define PR_ACTIVE_TEST 1	/* the process whose INQUIRY commands are watched, too */
#define PR_ACTIVE_ENTRIES 2

/* What scsi_dispatch_cmd_done has to tell, bits of pr_tracepoint: 0 where it is not attached. */
#define PR_TRACEPOINT_ENDS 1	/* ends of PR commands, and all conflicts */
#define PR_TRACEPOINT_SENSE 2	/* unit attentions of other commands as well */

#ifdef PR_BCC

/* PR_RING_PAGES, PR_SAMPLE_PAGES and PR_GENERATION come from the loader. */
BPF_RINGBUF_OUTPUT(pr_events, PR_RING_PAGES);
BPF_RINGBUF_OUTPUT(pr_samples, PR_SAMPLE_PAGES);
BPF_TABLE("hash", __u64, struct pr_pending, pr_pendings, PR_PENDING_ENTRIES);
BPF_TABLE("hash", struct pr_nexus, struct pr_count, pr_counts, PR_NEXUS_ENTRIES);
BPF_TABLE("hash", struct pr_nexus, struct pr_loss, pr_losses, PR_NEXUS_ENTRIES);
BPF_ARRAY(pr_no_pending, struct pr_pending, 1);
BPF_ARRAY(pr_no_count, struct pr_count, 1);
BPF_ARRAY(pr_stats, __u64, PR_STATS);
BPF_ARRAY(pr_sequence, __u64, 1);
BPF_ARRAY(pr_active, __u64, PR_ACTIVE_ENTRIES);

#ifdef PR_NO_FETCH
#define PR_NUMBERS 4096
BPF_TABLE("hash", __u64, __u8, pr_numbers, PR_NUMBERS);	/* the last numbers of records: pr_next_sequence */
#endif

#define pr_generation ((__u32)PR_GENERATION)
#define pr_tracepoint (PR_TRACEPOINT_ENDS | PR_TRACEPOINT_SENSE)

/* bcc inlines every function. */
#undef __noinline
#define __noinline static __always_inline
#define PR_SLOW static __always_inline

#else

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);	/* the loader may set another size */
} pr_events SEC(".maps");	/* struct pr_record, PR commands only */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10);
} pr_samples SEC(".maps");	/* struct pr_record, a few of what pr_counts counts */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PR_PENDING_ENTRIES);
	__type(key, __u64);
	__type(value, struct pr_pending);
} pr_pendings SEC(".maps");	/* address of the scsi_cmnd -> its request's history */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PR_NEXUS_ENTRIES);
	__type(key, struct pr_nexus);
	__type(value, struct pr_count);
} pr_counts SEC(".maps");	/* nexus -> conflicts and unit attentions delivered on it */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PR_NEXUS_ENTRIES);
	__type(key, struct pr_nexus);
	__type(value, struct pr_loss);
} pr_losses SEC(".maps");	/* nexus -> its PR records that found no room */

/* All zero: the two are too large for the stack, where a hash wants its new value. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pr_pending);
} pr_no_pending SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pr_count);
} pr_no_count SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PR_STATS);
	__type(key, __u32);
	__type(value, __u64);
} pr_stats SEC(".maps");	/* enum pr_stat -> count */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} pr_sequence SEC(".maps");	/* 0 -> the last record's number */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PR_ACTIVE_ENTRIES);
	__type(key, __u32);
	__type(value, __u64);
} pr_active SEC(".maps");

#define PR_SLOW static __noinline

/* In this order in .rodata: prtrace/probe/objectfile.py fills it in. */
const volatile __u32 pr_generation = 0;
const volatile __u32 pr_tracepoint = 0;
#if defined(__TARGET_ARCH_arm64)
const volatile __u32 pr_machine = 183;	/* EM_AARCH64: whose registers the object knows */
#else
const volatile __u32 pr_machine = 62;	/* EM_X86_64 */
#endif

#endif

/*
 * __noinline, and not static: a global function.  The verifier looks at it once, for whatever
 * arguments, instead of once for each state in which each of its callers can be, which took fifteen
 * times as long.  It is called with numbers, or with pointers to whole structures, which may be null.
 */

#endif
