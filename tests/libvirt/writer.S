# A guest in one sector: its disk's boot sector, which writes to sector 64 of that disk for ever, and
# to 448 KiB of memory, so that a migration that is made slow does not come to its end.
# It says B when it starts, w for a write that was done, E and the BIOS's status (hex) for one that was not.
	.code16
	.globl	_start
_start:
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x7c00, %sp
	sti
	mov	$'B', %al
	call	say
again:
	incw	0x8000
	mov	0x8000, %ax
	mov	$0x2000, %dx
fill:
	mov	%dx, %es
	xor	%di, %di
	mov	$0x8000, %cx
	rep stosw
	add	$0x1000, %dx
	cmp	$0x9000, %dx
	jb	fill
	xor	%dx, %dx
	mov	%dx, %es
	mov	$packet, %si
	mov	$0x4300, %ax
	mov	$0x80, %dl
	int	$0x13
	jc	failed
	mov	$'w', %al
	call	say
	jmp	again
failed:
	mov	%ah, %bl
	mov	$'E', %al
	call	say
	mov	%bl, %al
	shr	$4, %al
	call	digit
	mov	%bl, %al
	and	$15, %al
	call	digit
	jmp	again
digit:
	cmp	$10, %al
	jb	1f
	add	$7, %al
1:	add	$'0', %al
say:
	push	%dx
	mov	$0x3f8, %dx
	out	%al, %dx
	pop	%dx
	ret
packet:
	.byte	16, 0
	.word	1
	.word	0x8000, 0
	.long	64, 0
	.org	510
	.word	0xaa55
