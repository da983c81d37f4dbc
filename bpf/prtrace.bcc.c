// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The programs as bcc compiles and attaches them: see bpf/prtrace.bpf.c for what they do.
 *
 * bcc attaches to tracepoints, and to functions of the kernel proper where that has BTF.  So ends are
 * seen by scsi_dispatch_cmd_done.  Without BTF nothing attaches to the submission either: then
 * scsi_dispatch_cmd_start stands in for it, and nobody knows who asked.
 */
#include <uapi/linux/ptrace.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/dcache.h>
#include <linux/fdtable.h>
#include <linux/fs.h>
#include <linux/kernfs.h>
#include <linux/mount.h>
#include <linux/path.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <scsi/scsi_cmnd.h>
#include <scsi/scsi_device.h>
#include <scsi/scsi_host.h>
#include "pr_record.h"
#include "pr_maps.h"
#include "pr_kernel.h"
#include "pr_call.h"
#include "pr_data.h"
#include "pr_count.h"
#include "pr_submit.h"
#include "pr_end.h"

static __always_inline __u8 pr_opcode(struct scsi_cmnd *cmd)
{
	__u8 opcode = 0;

	bpf_probe_read_kernel(&opcode, 1, (void *)pr_cdb(cmd));
	return opcode;
}

static __always_inline __u32 pr_result(struct scsi_cmnd *cmd)
{
	__u32 result = 0;

	PR_GET(result, cmd, result);
	return result;
}

int pr_on_done(struct bpf_raw_tracepoint_args *ctx)
{
	struct scsi_cmnd *cmd = (struct scsi_cmnd *)ctx->args[0];

	return pr_on_done_with(cmd, pr_opcode(cmd), pr_result(cmd));
}

int pr_on_timeout(struct bpf_raw_tracepoint_args *ctx)
{
	struct scsi_cmnd *cmd = (struct scsi_cmnd *)ctx->args[0];

	return pr_is_ours(pr_opcode(cmd)) ? pr_end((__u64)cmd, PR_KIND_TIMEOUT, pr_result(cmd), 0) : 0;
}

int pr_on_error(struct bpf_raw_tracepoint_args *ctx)
{
	struct scsi_cmnd *cmd = (struct scsi_cmnd *)ctx->args[0];

	return pr_is_ours(pr_opcode(cmd)) ? pr_end((__u64)cmd, PR_KIND_ERROR, pr_result(cmd), 0) : 0;
}

#ifndef PR_NO_FENTRY

/*
 * libbcc knows by this prefix what to attach to.
 *
 * PR_NESTED: until Linux kernel commit e2e530867245 ("blk-mq: remove the done argument to
 * blk_execute_rq_nowait") (in v5.19) the first of the two called the second, which alone sees every
 * request once.  Who waits for it cannot be told there, and the system call names the node.
 */
int kfunc__blk_execute_rq(__u64 *ctx)
{
	if (PR_NESTED)
		return 0;
	return pr_on_submit((struct request *)ctx[PR_REQUEST_ARGUMENT], 0);
}

int kfunc__blk_execute_rq_nowait(__u64 *ctx)
{
	return pr_on_submit((struct request *)ctx[PR_REQUEST_ARGUMENT],
			    PR_NESTED ? 0 : PR_ISSUE_NOWAIT);
}

#else

int pr_on_start(struct bpf_raw_tracepoint_args *ctx)
{
	struct scsi_cmnd *cmd = (struct scsi_cmnd *)ctx->args[0];
	__u8 opcode = pr_opcode(cmd);
	struct scsi_device *device = 0;
	struct pr_pending *pending;

	if (!pr_is_ours(opcode) || pr_active_generation() != pr_generation)
		return 0;
	PR_GET(device, cmd, device);
	pending = pr_remember(pr_request(cmd), device, opcode);
	if (pending)
		pr_read_nexus(device, &pending->nexus);
	return 0;
}

#endif
