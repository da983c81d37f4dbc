/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The system call that a task is in: its registers, by architecture. */
#ifndef PR_CALL_H
#define PR_CALL_H

struct pr_call {
	__u64 fd;	/* its first argument */
	__u32 ioctl;	/* 0 where it is another system call */
	__u32 reserved;
};

#ifdef PR_BCC

/* task_pt_regs() of x86-64, without the padding that only 32-bit kernels have. */
static __always_inline struct pt_regs *pr_registers(struct task_struct *task)
{
	void *stack = 0;

	PR_GET(stack, task, stack);
	return stack ? (struct pt_regs *)(stack + THREAD_SIZE) - 1 : 0;
}

static __always_inline int pr_is_bsg_uring(__u64 end_io)
{
	return 0;
}

#else

static __always_inline struct pt_regs *pr_registers(struct task_struct *task)
{
	return (struct pt_regs *)bpf_task_pt_regs((void *)bpf_get_current_task_btf());
}

static __always_inline int pr_is_bsg_uring(__u64 end_io)
{
	return end_io && end_io == pr_kernel.bsg_uring_end_io;
}

#endif

/* The number of ioctl(): arch/x86/entry/syscalls/syscall_{64,32}.tbl, include/uapi/asm-generic. */
#define PR_NR_IOCTL_X86_64 16
#define PR_NR_IOCTL_32 54
#define PR_NR_IOCTL_ARM64 29
#define PR_TS_COMPAT 0x0002	/* arch/x86/include/asm/thread_info.h */

/* Returns 0 where nothing can be told. */
static __always_inline int pr_system_call(struct task_struct *task, struct pr_call *call)
{
	struct pt_regs *regs = pr_registers(task);
	__u64 number = 0, command = 0;

	if (!regs)
		return 0;
#if defined(PR_BCC) || defined(__TARGET_ARCH_x86)
	__u32 status = 0;

	PR_GET(status, task, thread_info.status);
	PR_GET(number, regs, orig_ax);
	if (status & PR_TS_COMPAT) {
		PR_GET(call->fd, regs, bx);
		PR_GET(command, regs, cx);
		call->fd = (__u32)call->fd;
		call->ioctl = (__u32)number == PR_NR_IOCTL_32 ? command : 0;
	} else {
		PR_GET(call->fd, regs, di);
		PR_GET(command, regs, si);
		call->ioctl = number == PR_NR_IOCTL_X86_64 ? command : 0;
	}
	return 1;
#elif defined(__TARGET_ARCH_arm64)
	struct user_pt_regs *user = (void *)regs;

	/* syscallno stays as it is where a 32-bit task calls; both calls pass the same arguments. */
	PR_GET(call->fd, regs, orig_x0);
	PR_GET(number, regs, syscallno);
	PR_GET(command, user, regs[1]);
	call->ioctl = (__u32)number == PR_NR_IOCTL_ARM64 || (__u32)number == PR_NR_IOCTL_32 ? command : 0;
	return 1;
#else
	return 0;
#endif
}

#endif
