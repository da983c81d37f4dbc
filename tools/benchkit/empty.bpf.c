// SPDX-License-Identifier: GPL-2.0-or-later
/* The least that watching every SCSI command can cost: a raw tracepoint pair that does nothing. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

SEC("raw_tp/scsi_dispatch_cmd_start")
int on_start(void *ctx)
{
	return 0;
}

SEC("raw_tp/scsi_dispatch_cmd_done")
int on_done(void *ctx)
{
	return 0;
}
