/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The maps, and the two dialects in which a program says what it is and what it looks up:
 * libbpf's (core) and bcc's.  No other file knows that there are two.
 */
#ifndef PR_MAPS_H
#define PR_MAPS_H

#define PR_PENDING_ENTRIES 16384
#define PR_CALL_ENTRIES 4096
#define PR_NEXUS_ENTRIES 32768

#ifdef PR_BCC

/* PR_RING_PAGES, PR_SAMPLE_PAGES and PR_GENERATION come from the loader. */
BPF_RINGBUF_OUTPUT(pr_events, PR_RING_PAGES);
BPF_RINGBUF_OUTPUT(pr_samples, PR_SAMPLE_PAGES);
BPF_TABLE("lru_hash", __u64, struct pr_pending, pr_pendings, PR_PENDING_ENTRIES);
BPF_TABLE("lru_hash", __u64, struct pr_call, pr_calls, PR_CALL_ENTRIES);
BPF_TABLE("hash", struct pr_nexus, struct pr_count, pr_counts, PR_NEXUS_ENTRIES);
BPF_TABLE("hash", struct pr_nexus, struct pr_loss, pr_losses, PR_NEXUS_ENTRIES);
BPF_ARRAY(pr_no_count, struct pr_count, 1);
BPF_ARRAY(pr_stats, __u64, PR_STATS);
BPF_ARRAY(pr_sequence, __u64, 1);
BPF_ARRAY(pr_active, __u64, 1);

#define pr_generation ((__u32)PR_GENERATION)

/*
 * bcc does not take a map's method from a macro: prtrace/probe/bcc.py writes PR_LOOKUP and
 * its kin as the methods they stand for before bcc sees the source.
 */

#define PR_FAST(from, member) ({ typeof((from)->member) _v = 0; PR_GET(_v, from, member); _v; })
#define PR_SLOW static __always_inline
#define PR_APART static __always_inline
#define PR_ON_COMMAND(name, tracepoint) \
	int name(struct bpf_raw_tracepoint_args *ctx)
#define PR_COMMAND() ((struct scsi_cmnd *)ctx->args[0])
/* libbcc knows by these prefixes what to attach to. */
#define PR_ON_ENTRY(name, function) int kfunc__##function(__u64 *ctx)
#define PR_ON_RETURN(name, function) int kretfunc__##function(__u64 *ctx)
#define PR_ARGUMENT(type, n) ((type)ctx[n])
#define PR_ON_CALL(name, function) PR_ON_ENTRY(name, function)
#define PR_CALLED_WITH(type) PR_ARGUMENT(type, 0)
#define PR_AND_WITH(type) PR_ARGUMENT(type, 1)

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
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PR_PENDING_ENTRIES);
	__type(key, __u64);
	__type(value, struct pr_pending);
} pr_pendings SEC(".maps");	/* address of the scsi_cmnd -> its request's history */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PR_CALL_ENTRIES);
	__type(key, __u64);
	__type(value, struct pr_call);
} pr_calls SEC(".maps");	/* thread -> the block ioctl it is in */

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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pr_count);
} pr_no_count SEC(".maps");	/* all zero: too large for the stack, where a hash wants it */

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
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} pr_active SEC(".maps");	/* 0 -> the generation that answers for new requests */

/* In this order in .rodata: prtrace/probe/core.py fills it in. */
const volatile __u32 pr_generation = 0;
const volatile __u64 pr_vmemmap_base_at = 0;
const volatile __u64 pr_page_offset_base_at = 0;

#define PR_LOOKUP(map, key) bpf_map_lookup_elem(&map, key)
#define PR_UPDATE(map, key, value) bpf_map_update_elem(&map, key, value, BPF_ANY)
#define PR_INSERT(map, key, value) bpf_map_update_elem(&map, key, value, BPF_NOEXIST)
#define PR_DELETE(map, key) bpf_map_delete_elem(&map, key)
#define PR_RESERVE(map, size) bpf_ringbuf_reserve(&map, size, 0)
#define PR_SUBMIT(map, record) bpf_ringbuf_submit(record, 0)

#define PR_FAST(from, member) ((from)->member)
/*
 * What few commands need is a function of its own, so that the entry that all of them run has
 * no stack and no registers to save.  (bcc inlines every function.)
 */
#define PR_SLOW static __attribute__((noinline))
/*
 * A function that the verifier looks at once, for whatever arguments, and not again for each
 * state that each of its callers can be in, which took fifteen times as long.  Therefore not
 * static, and called with numbers or with pointers to whole structures, which may be null.
 */
#define PR_APART __attribute__((noinline))
#define PR_ON_COMMAND(name, tracepoint) \
	SEC("tp_btf/" #tracepoint) int name(__u64 *ctx)
#define PR_COMMAND() ((struct scsi_cmnd *)ctx[0])
#define PR_ON_ENTRY(name, function) SEC("fentry/" #function) int name(__u64 *ctx)
#define PR_ON_RETURN(name, function) SEC("fexit/" #function) int name(__u64 *ctx)
#define PR_ARGUMENT(type, n) ((type)ctx[n])
/*
 * Linux 7 lets a task be preempted within a program, and skips that program for every other task on
 * the processor until the first one is back: not so where a kprobe calls it.  x86-64: the first
 * argument and the second.
 */
#define PR_ON_CALL(name, function) SEC("kprobe/" #function) int name(struct pt_regs *ctx)
#define PR_CALLED_WITH(type) ((type)ctx->di)
#define PR_AND_WITH(type) ((type)ctx->si)

#endif

#endif
