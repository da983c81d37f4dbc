// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Watch PERSISTENT RESERVE and the legacy RESERVE/RELEASE on their way through the SCSI
 * midlayer, and count what reservations do to everything else.
 *
 *   submission  blk_execute_rq*()             who asks, still in the asking task; the parameter
 *                                             list, before the device sees it; where the data lies
 *   an attempt  scsi_dispatch_cmd_timeout     the timer ran out
 *               scsi_dispatch_cmd_error       the driver refused it
 *               __scsi_queue_insert()         it ended, and the midlayer tries again
 *   the end     rq->end_io()                  CDB, list or reply, status, sense: one record
 *   the others  scsi_check_sense()            unit attentions, the error handler's included
 *               block_rq_error                conflicts of READ and WRITE
 *
 * They are joined by the address of the scsi_cmnd, which a request keeps for life.  No program runs
 * for a command that READ, WRITE or a file system makes and that succeeds: rq->end_io() is called
 * for passthrough requests only.  Its functions are static ones of sg, of the block layer and of
 * scsi_bsg.  Where this kernel does not let them be hooked, scsi_dispatch_cmd_done, which every
 * command passes, stands in: see prtrace/probe/core.py.
 *
 * bpf/prtrace.bcc.c attaches the same functions by bcc.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define __VMLINUX_H__	/* bpf_tracing.h: registers by the kernel's names of them */

struct pt_regs {
#if defined(__TARGET_ARCH_arm64)
	__u64 orig_x0;
	__s32 syscallno;
#else
	unsigned long bx, cx, di, si, dx, r10, r8, r9, ax, sp, ip, bp, orig_ax;
#endif
} __attribute__((preserve_access_index));

struct user_pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
} __attribute__((preserve_access_index));

#include <bpf/bpf_tracing.h>
#include "pr_record.h"
#include "pr_maps.h"
#include "pr_kernel.h"
#include "pr_call.h"
#include "pr_data.h"
#include "pr_count.h"
#include "pr_submit.h"
#include "pr_end.h"

char LICENSE[] SEC("license") = "GPL";

/* The names that pr_learn looks up, each with its NUL. */
static const char pr_vmemmap_base_name[] = "vmemmap_base";
static const char pr_page_offset_base_name[] = "page_offset_base";
static const char pr_flush_end_io_name[] = "mq_flush_data_end_io";
static const char pr_bsg_uring_end_io_name[] = "scsi_bsg_uring_cmd_done";

static __always_inline __u64 pr_symbol(const char *name, int size)
{
	__u64 address = 0;

	if (bpf_kallsyms_lookup_name(name, size, 0, &address))
		return 0;
	return address;
}

static __always_inline __u64 pr_variable(const char *name, int size)
{
	__u64 address = pr_symbol(name, size), value = 0;

	if (address)
		bpf_probe_read_kernel(&value, sizeof(value), (void *)address);
	return value;
}

/* Run once by the loader, between loading and attaching. */
SEC("syscall")
int pr_learn(void *unused)
{
	pr_kernel.vmemmap_base = pr_variable(pr_vmemmap_base_name, sizeof(pr_vmemmap_base_name));
	pr_kernel.page_offset_base =
		pr_variable(pr_page_offset_base_name, sizeof(pr_page_offset_base_name));
	pr_kernel.flush_end_io = pr_symbol(pr_flush_end_io_name, sizeof(pr_flush_end_io_name));
	pr_kernel.bsg_uring_end_io =
		pr_symbol(pr_bsg_uring_end_io_name, sizeof(pr_bsg_uring_end_io_name));
	return 0;
}

/*
 * Submission is hooked by kprobes.  Linux 7 lets a task be preempted within a program that a
 * trampoline calls, and skips that program for every other task on the processor until the first one
 * is back; a kprobe's program runs to its end.
 */
SEC("kprobe/blk_execute_rq")
int BPF_KPROBE(pr_submit, struct request *rq)
{
	return pr_on_submit(rq, 0);
}

SEC("kprobe/blk_execute_rq_nowait")
int BPF_KPROBE(pr_submit_nowait, struct request *rq)
{
	return pr_on_submit(rq, PR_ISSUE_NOWAIT);
}

SEC("kprobe/sg_rq_end_io")
int BPF_KPROBE(pr_over_sg, struct request *rq, __u8 error)
{
	return pr_on_over(rq, error, PR_SEER_KPROBE);
}

SEC("kprobe/scsi_bsg_uring_cmd_done")
int BPF_KPROBE(pr_over_bsg_uring, struct request *rq, __u8 error)
{
	return pr_on_over(rq, error, PR_SEER_KPROBE);
}

SEC("kprobe/pscsi_req_done")
int BPF_KPROBE(pr_over_pscsi, struct request *rq, __u8 error)
{
	return pr_on_over(rq, error, PR_SEER_KPROBE);
}

/*
 * Whether the end of a request can be one to tell of, for a program whose first argument is the
 * request.  Whoever sends another command pays for no more than this.
 */
static __always_inline int pr_may_matter(__u64 *ctx)
{
	__u8 opcode = 0;

	bpf_probe_read_kernel(&opcode, 1, (void *)pr_cdb(pr_command((void *)ctx[0])));
	return (opcode & PR_OPCODE_INQUIRY) == PR_OPCODE_INQUIRY;	/* all that are ours, too */
}

/* The request as a number: as an argument it has a BTF type, and is no key for a map. */
static __always_inline struct request *pr_first_argument(__u64 *ctx)
{
	__u64 rq = 0;

	bpf_get_func_arg(ctx, 0, &rq);
	return (void *)rq;
}

/* error: of conflicts of other commands, too. */
static __always_inline int pr_on_over_too(__u64 *ctx)
{
	__u8 error = ctx[1];

	if (!error && !pr_may_matter(ctx))
		return 0;
	return pr_on_over(pr_first_argument(ctx), error, PR_SEER_FENTRY);
}

/*
 * Whoever waits for a request does so in this function: its return is a second look at the end, at
 * half the price of a kprobe.
 */
SEC("fexit/blk_execute_rq")
int pr_over_waited_for(__u64 *ctx)
{
	__u64 error = 0;

	if (!pr_may_matter(ctx))
		return 0;
	bpf_get_func_ret(ctx, &error);
	return pr_on_over(pr_first_argument(ctx), error, PR_SEER_WAITER);
}

SEC("fentry/blk_end_sync_rq")
int pr_over_waited_for_too(__u64 *ctx)
{
	return pr_on_over_too(ctx);
}

SEC("fentry/sg_rq_end_io")
int pr_over_sg_too(__u64 *ctx)
{
	return pr_on_over_too(ctx);
}

SEC("fentry/scsi_bsg_uring_cmd_done")
int pr_over_bsg_uring_too(__u64 *ctx)
{
	return pr_on_over_too(ctx);
}

SEC("fentry/pscsi_req_done")
int pr_over_pscsi_too(__u64 *ctx)
{
	return pr_on_over_too(ctx);
}

/*
 * Since Linux kernel commit 838a10bd2ebf ("bpf: Augment raw_tp arguments with PTR_MAYBE_NULL") (in
 * v6.13, and in 6.12.y), arguments of a module's tracepoints may be NULL as far as the verifier knows.
 */
SEC("tp_btf/scsi_dispatch_cmd_timeout")
int BPF_PROG(pr_on_timeout, struct scsi_cmnd *cmd)
{
	if (!cmd || !pr_is_ours(cmd->cmnd[0]))
		return 0;
	return pr_end(pr_number(cmd), PR_KIND_TIMEOUT, cmd->result, 0);
}

SEC("tp_btf/scsi_dispatch_cmd_error")
int BPF_PROG(pr_on_error, struct scsi_cmnd *cmd)
{
	if (!cmd || !pr_is_ours(cmd->cmnd[0]))
		return 0;
	return pr_end(pr_number(cmd), PR_KIND_ERROR, cmd->result, 0);
}

/*
 * scsi_queue_insert(), which is this with one argument less, is what the error handler calls.  Where a
 * command ends (scsi_complete()), the compiler puts this function's call in its place.
 */
SEC("fentry/__scsi_queue_insert")
int BPF_PROG(pr_on_retry, struct scsi_cmnd *cmd)
{
	if (!pr_is_ours(cmd->cmnd[0]))
		return 0;
	return pr_end(pr_number(cmd), PR_KIND_OVER, cmd->result, 0);
}

/* The error handler borrows a command and puts a TEST UNIT READY into it. */
SEC("fentry/scsi_check_sense")
int BPF_PROG(pr_on_sense, struct scsi_cmnd *cmd)
{
	__u32 result = cmd->result;

	if ((result & 0xff) != PR_STATUS_CHECK_CONDITION || pr_is_ours(cmd->cmnd[0]))
		return 0;
	return pr_other(pr_number(cmd), result);
}

/* A write with FUA is told twice, the first time while it still belongs to the flush machinery. */
SEC("tp_btf/block_rq_error")
int BPF_PROG(pr_on_block_error, struct request *rq)
{
	struct request *request = (void *)pr_number(rq);
	struct scsi_cmnd *cmd = pr_command(request);
	__u32 result = 0;
	__u64 end = 0;

	PR_GET(end, request, end_io);
	if ((end && end == pr_kernel.flush_end_io) || !pr_device(request))
		return 0;
	PR_GET(result, cmd, result);
	if ((result & 0xff) != PR_STATUS_RESERVATION_CONFLICT)
		return 0;
	return pr_other((__u64)cmd, result);
}

/* The fallback. */
SEC("tp_btf/scsi_dispatch_cmd_done")
int BPF_PROG(pr_on_done, struct scsi_cmnd *cmd)
{
	if (!cmd)
		return 0;
	return pr_on_done_with(cmd, cmd->cmnd[0], cmd->result);
}
