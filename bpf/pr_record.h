/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract between the programs and prtrace: every byte that crosses a ring or a map.
 *
 * Fixed width, falling alignment, no implicit padding, no kernel pointer.  Python states the
 * same layout once (prtrace/probe/record.py); a test holds it against the BTF of the object.
 * Change anything here and PR_ABI goes up: an agent that finds programs of another ABI
 * pinned starts new ones and says what it could not read.
 */
#ifndef PR_RECORD_H
#define PR_RECORD_H

#define PR_ABI 2

#define PR_CDB_SIZE 16
#define PR_SENSE_SIZE 96	/* SCSI_SENSE_BUFFERSIZE */
#define PR_HEAD_SIZE 24		/* the basic parameter list */
#define PR_INQUIRY_SIZE 28	/* vendor 8, product 16, revision 4 */
#define PR_PAGE83_SIZE 128	/* enough for the logical unit's own designators */
#define PR_COMM_SIZE 16

/* Data is captured in three sizes, so that an ordinary record stays small in the ring. */
#define PR_DATA_SMALL 64
#define PR_DATA_MEDIUM 1024
#define PR_DATA_LARGE 8192

enum pr_kind {
	PR_KIND_DONE = 1,	/* the low level driver completed the command */
	PR_KIND_TIMEOUT = 2,	/* the block layer's timer ran out; the outcome is unknown */
	PR_KIND_ERROR = 3,	/* queuecommand refused it; it will be tried again */
	PR_KIND_SAMPLE = 4,	/* a conflict or unit attention on a command that is none of ours */
	PR_KIND_OVER = 5,	/* seen when the request was over, and the command's data gone */
};

enum pr_flag {
	PR_FLAG_TRUNCATED = 1,	/* there was more data than PR_DATA_LARGE */
	PR_FLAG_UNREADABLE = 2,	/* the data buffer could not be read */
	PR_FLAG_NOT_SUBMITTED = 4,	/* no submission seen: pid, comm and issue say nothing */
};

enum pr_issue {
	PR_ISSUE_NOWAIT = 1,	/* blk_execute_rq_nowait(): of user tasks, only sg does this */
	PR_ISSUE_KTHREAD = 2,
	PR_ISSUE_BSG = 4,
	PR_ISSUE_BLOCK = 8,	/* inside blkdev_ioctl(): see ioctl and requested */
};

enum pr_stat {
	PR_STAT_SEEN,		/* numbered records: submitted + ring full */
	PR_STAT_SUBMITTED,
	PR_STAT_RING_FULL,
	PR_STAT_LOST_MAP_FULL,	/* a record was lost and its nexus could not be noted */
	PR_STAT_SAMPLES,
	PR_STAT_SAMPLES_LIMITED,
	PR_STAT_SAMPLE_RING_FULL,
	PR_STAT_COUNT_MAP_FULL,	/* a conflict or attention that no counter holds */
	PR_STAT_PENDING_FULL,	/* a submission could not be remembered */
	PR_STAT_UNREADABLE,
	PR_STAT_NOT_SUBMITTED,
	PR_STAT_MISSED,		/* a PR command ended unseen: see pr_note_missed */
	PR_STATS
};

/* How a request stands. */
enum pr_state {
	PR_STATE_UNDER_WAY,	/* its end is to come */
	PR_STATE_ENDED,
	PR_STATE_MAY_RETURN,	/* it ended, and the midlayer may try it once more */
};

enum pr_cause {
	PR_CAUSE_CONFLICT,			/* status RESERVATION CONFLICT */
	PR_CAUSE_RESERVATIONS_PREEMPTED,	/* 2A/03 */
	PR_CAUSE_RESERVATIONS_RELEASED,		/* 2A/04 */
	PR_CAUSE_REGISTRATIONS_PREEMPTED,	/* 2A/05 */
	PR_CAUSE_RESET,				/* 29/xx */
	PR_CAUSE_INFORMATION_LOST,		/* 44/01 */
	PR_CAUSES
};

#define PR_SAMPLES_PER_SECOND 10	/* of one nexus */

struct pr_record {
	__u64 seq;		/* of PR records; 0 in a sample */
	__u64 lost;		/* PR records that were lost when this one was made */
	__u64 submit_ns;	/* CLOCK_MONOTONIC, as the next two; 0 is not seen */
	__u64 start_ns;		/* from when on the device can have had this attempt */
	__u64 done_ns;
	__u64 lun;
	__u64 issuer_start_ns;	/* CLOCK_BOOTTIME */
	__u64 cgroup;
	__u32 host;
	__u32 channel;
	__u32 target;
	__u32 result;		/* scsi_cmnd::result: host byte in bits 16-23, status in 0-7 */
	__u32 pid;		/* thread group */
	__u32 ioctl;		/* the block ioctl that asked */
	__u32 requested;	/* the block node it came through: 12 bits major, 20 bits minor */
	__u32 transfer_length;
	__u32 resid;
	__u32 data_length;	/* valid bytes in data */
	__u32 attempt;		/* ends of the request so far, this one included */
	__u32 generation;	/* of the programs that made this record */
	__u16 abi;
	__u8 kind;
	__u8 flags;
	__u8 issue;
	__u8 page83_length;	/* valid bytes in page83 */
	__u8 cdb_length;
	__u8 sense_length;
	__u8 comm[PR_COMM_SIZE];
	__u8 cdb[PR_CDB_SIZE];
	__u8 sense[PR_SENSE_SIZE];
	__u8 head[PR_HEAD_SIZE];	/* the parameter list as it was at submission */
	__u8 inquiry[PR_INQUIRY_SIZE];
	__u8 page83[PR_PAGE83_SIZE];
	__u32 head_length;	/* valid bytes in head */
	__u8 data[];
};

_Static_assert(sizeof(struct pr_record) == 432, "PR_ABI 2 has a header of 432 bytes");

struct pr_nexus {
	__u64 lun;
	__u32 host;
	__u32 channel;
	__u32 target;
	__u32 reserved;
};

/* What is remembered of a request between its submission and its end, by its scsi_cmnd. */
struct pr_pending {
	__u64 submit_ns;
	__u64 start_ns;		/* submission, or the end of the attempt before */
	__u64 issuer_start_ns;
	__u64 cgroup;
	__u32 pid;
	__u32 ioctl;
	__u32 requested;
	__u32 attempt;
	__u32 generation;	/* which programs answer for this request */
	__u32 result;		/* of the last attempt that ended */
	__u32 reserved;
	__u8 issue;
	__u8 state;
	__u8 head_length;
	__u8 opcode;
	__u8 comm[PR_COMM_SIZE];
	__u8 head[PR_HEAD_SIZE];
	struct pr_nexus nexus;
};

/* The block ioctl that a thread is in. */
struct pr_call {
	__u32 ioctl;
	__u32 requested;
};

/* PR commands are counted apart (at cause + PR_CAUSES): each has a record that says more. */
struct pr_count {
	__u64 count[2 * PR_CAUSES];
	__u64 first_ns[2 * PR_CAUSES];
	__u64 last_ns[2 * PR_CAUSES];
	__u64 window;		/* the second in which the samples below were taken */
	__u64 samples;
};

struct pr_loss {
	__u64 count;		/* found no room in the ring */
	__u64 missed;		/* ended unseen */
	__u64 last_ns;
	__u8 inquiry[PR_INQUIRY_SIZE];
	__u32 page83_length;
	__u8 page83[PR_PAGE83_SIZE];
};

#endif
