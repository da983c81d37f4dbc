/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The contract between the programs and prtrace: every byte that crosses a ring or a map.
 *
 * Fixed width, falling alignment, no implicit padding, no kernel pointer but those in pr_pending,
 * which stays in the kernel.  Python states the same layout once (prtrace/probe/record.py); a test
 * holds it against the BTF of the object.  Change anything here and PR_ABI goes up: an agent that
 * finds programs of another ABI pinned starts new ones and says what it could not read.
 */
#ifndef PR_RECORD_H
#define PR_RECORD_H

#define PR_ABI 3

#define PR_CDB_SIZE 16
#define PR_SENSE_SIZE 96	/* SCSI_SENSE_BUFFERSIZE */
#define PR_HEAD_SIZE 24		/* the basic parameter list */
#define PR_INQUIRY_SIZE 28	/* vendor 8, product 16, revision 4 */
#define PR_PAGE83_SIZE 128	/* enough for the logical unit's own designators */
#define PR_COMM_SIZE 16
#define PR_EXE_SIZE 128

/* Data is captured in three sizes, so that an ordinary record stays small in the ring. */
#define PR_DATA_SMALL 64
#define PR_DATA_MEDIUM 1024
#define PR_DATA_LARGE 8192

enum pr_kind {
	PR_KIND_DONE = 1,	/* the command ended, with its data */
	PR_KIND_TIMEOUT = 2,	/* the block layer's timer ran out; the command is still under way */
	PR_KIND_ERROR = 3,	/* queuecommand refused it; it will be tried again */
	PR_KIND_SAMPLE = 4,	/* a conflict or unit attention on a command that is not a PR command */
	PR_KIND_OVER = 5,	/* an end whose data is gone; the parameter list is that of the submission */
	PR_KIND_TEST = 6,	/* an INQUIRY of the self-test, in the ring of the samples */
};

enum pr_flag {
	PR_FLAG_TRUNCATED = 1,	/* there was more data than PR_DATA_LARGE */
	PR_FLAG_UNREADABLE = 2,	/* the data buffer could not be read */
	PR_FLAG_NOT_SUBMITTED = 4,	/* no submission seen: pid, comm, exe and issue say nothing */
};

/* The way on which a request was submitted. */
enum pr_issue {
	PR_ISSUE_NOWAIT = 1,	/* blk_execute_rq_nowait() */
	PR_ISSUE_KTHREAD = 2,	/* a kernel thread asked */
	PR_ISSUE_BSG = 4,	/* bsg, by io_uring */
	PR_ISSUE_BLOCK = 8,	/* a system call on a block node: see ioctl and requested */
	PR_ISSUE_CHARACTER = 16,	/* a system call on a character node: see ioctl and requested */
};

enum pr_stat {
	PR_STAT_SEEN,		/* numbered records: submitted + ring full */
	PR_STAT_SUBMITTED,
	PR_STAT_RING_FULL,
	PR_STAT_LOST_MAP_FULL,	/* a record was lost, and nobody knows of which unit */
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
	PR_STATE_MAY_RETURN,	/* the tracepoint saw it end; the midlayer may try it once more */
	PR_STATE_TIMED_OUT,	/* the timer ran out; the device may still carry it out */
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
	__u64 life;		/* of the scsi_device: the inode of its folder in sysfs */
	__u64 issuer_start_ns;	/* CLOCK_BOOTTIME */
	__u64 cgroup;
	__u32 host;
	__u32 channel;
	__u32 target;
	__u32 result;		/* scsi_cmnd::result: host byte in bits 16-23, status in 0-7 */
	__u32 pid;		/* thread group */
	__u32 ioctl;		/* its number, where an ioctl asked */
	__u32 requested;	/* the node that was asked: 12 bits major, 20 bits minor */
	__u32 transfer_length;
	__u32 resid;
	__u32 data_length;	/* valid bytes in data */
	__u32 attempt;		/* ends of the request so far, this one included */
	__u32 generation;	/* of the programs that made this record */
	__u32 head_length;	/* valid bytes in head */
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
	/*
	 * The issuer's executable: the names of its path, the last one first, each with a NUL behind
	 * it.  A name "/" at the end says that the path is whole.
	 */
	__u8 exe[PR_EXE_SIZE];
	__u8 data[];
};

_Static_assert(sizeof(struct pr_record) == 568, "PR_ABI 3 has a header of 568 bytes");

struct pr_nexus {
	__u64 lun;
	__u32 host;
	__u32 channel;
	__u32 target;
	__u32 reserved;
};

/* Where a command's data lies. */
enum pr_place {
	PR_PLACE_NONE,		/* nowhere, or not to be found */
	PR_PLACE_BIO,		/* in the pages of a bio that outlives the request */
	PR_PLACE_KERNEL,	/* at an address of the kernel */
	PR_PLACE_HEAD,		/* gone at the end: the list is that of the submission */
};

/* How far a copy of a command's data has come. */
struct pr_walk {
	__u64 at;	/* the bio, or the address of the data */
	__u64 from;	/* the kernel's address of the next part */
	__u32 place;
	__u32 index;	/* of the bio's segment */
	__u32 inside;	/* bytes done of the segment */
	__u32 part;	/* bytes of the next part */
	__u32 copied;
	__u32 want;
};

/* What is remembered of a request between its submission and its end, by its scsi_cmnd. */
struct pr_pending {
	__u64 submit_ns;
	__u64 start_ns;		/* submission, or the end of the attempt before */
	__u64 issuer_start_ns;
	__u64 cgroup;
	__u64 life;
	__u64 bio;		/* rq->bio at submission, and where in it the data begins */
	__u64 kernel;		/* the address that PR_PLACE_KERNEL means */
	__u32 pid;
	__u32 ioctl;
	__u32 requested;
	__u32 attempt;
	__u32 generation;	/* which programs answer for this request */
	__u32 result;		/* of the last attempt that ended */
	__u32 data_length;
	__u32 bio_index;
	__u32 bio_skip;
	__u32 page83_length;
	__u8 issue;
	__u8 state;
	__u8 head_length;
	__u8 opcode;
	__u8 place;
	__u8 seen;		/* enum pr_seer: the programs that saw the request's end */
	__u8 refused;		/* queuecommand refused the last attempt, and a record says so */
	__u8 test;		/* of the self-test */
	__u8 comm[PR_COMM_SIZE];
	__u8 head[PR_HEAD_SIZE];
	__u8 inquiry[PR_INQUIRY_SIZE];
	__u8 reserved[4];
	__u8 page83[PR_PAGE83_SIZE];
	__u8 exe[PR_EXE_SIZE];
	struct pr_nexus nexus;
	struct pr_walk walk;	/* for the programs' own use while one of them runs */
};

_Static_assert(sizeof(struct pr_pending) == 496, "no implicit padding");

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
