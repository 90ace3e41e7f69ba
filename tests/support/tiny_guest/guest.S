/* SPDX-License-Identifier: MIT */
/*
 * Firmware of 64 KiB that does what it is told: an operation is registers and up to 64 bytes of
 * instructions, given by the host in a page that the guest shares. Each vCPU runs its operations in
 * turn, and says what became of the registers, or which exception came. __init__.py is the host's
 * side, and adds the metadata that QEMU looks for.
 *
 * All memory is mapped twice, by 1 GiB: at its address private, and 512 GiB above shared.
 */
#define BASE		0xffff0000
#define PERCPU		(BASE + 0x4000)		/* a page each: state, TSS, stack */
#define TO_CODE		0x7000			/* from there to the vCPU's page for instructions */
#define HANDLERS	0x8800
#define STACK		0xff0
#define OPERATION	0x00			/* in a vCPU's page */
#define MAILBOX		0x08
#define REMAINING	0x10
#define TSS		0x40

#define OP_SIZE		256			/* an operation */
#define OP_CS		0x40
#define OP_VECTOR	0x48
#define OP_ERROR	0x50
#define OP_CR2		0x58
#define OP_RFLAGS	0x60
#define OP_RIP		0x68
#define OP_REGS		0x70
#define R(n)		(OP_REGS + 8 * (n))

#define SHARED_BIT	(1 << 51)		/* TDX, and the C bit of SNP */
#ifdef SNP
#define PRIVATE_FLAGS	0x87 + SHARED_BIT
#define SHARED_FLAGS	0x87
#else
#define PRIVATE_FLAGS	0x87
#define SHARED_FLAGS	0x87 + SHARED_BIT
#endif

	.text
base:
	.quad	BASE + 0x1007, BASE + 0x2007
	.org	0x1000
	.set	i, 0
	.rept	512
	.quad	(i << 30) + PRIVATE_FLAGS
	.set	i, i + 1
	.endr
	.set	i, 0
	.rept	512
	.quad	(i << 30) + SHARED_FLAGS
	.set	i, i + 1
	.endr

	.org	0x3000
gdt:
	.quad	0
	.quad	0x00af9b000000ffff		/* 08: 64-bit code */
	.quad	0x00cf93000000ffff		/* 10: data */
	.quad	0x00cf9b000000ffff		/* 18: 32-bit code */
	.quad	0x00cff3000000ffff		/* 23: user's data */
	.quad	0x00affb000000ffff		/* 2b: user's 64-bit code */
	.quad	0
	.set	i, 0
	.rept	4				/* 38: a TSS each */
	.word	0x67, 0x4000 + TSS + i * 0x1000
	.byte	0xff, 0x89, 0, 0xff
	.quad	0
	.set	i, i + 1
	.endr
gdt_end:
gdt_pointer:
	.word	gdt_end - gdt - 1
	.long	BASE + 0x3000
idt_pointer:
	.word	idt_end - idt - 1
	.quad	BASE + 0x3400
next_cpu:
	.long	0

	.org	0x3400
idt:
	.set	i, 0
	.rept	0x41
	.word	HANDLERS + 16 * i, 0x08
	.byte	0
	.if	i == 0x40
	.byte	0xee
	.else
	.byte	0x8e
	.endif
	.word	0xffff
	.quad	0
	.set	i, i + 1
	.endr
idt_end:

	.org	0x8000
#ifdef SNP
	.code16
entry16:
	cli
	lgdtl	%cs:(gdt_pointer - base)
	movl	%cr0, %eax
	andl	$0x9fffffff, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x18, $entry32
#endif

	.code32
entry32:
#ifdef TDX
	lgdt	gdt_pointer
#endif
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
#ifdef SNP
	movl	$1, %esi			/* TDX: the vCPU's index */
	lock xaddl %esi, next_cpu
#endif
	movl	%cr4, %eax
	orl	$0x620, %eax			/* PAE, SSE */
	movl	%eax, %cr4
	movl	$BASE, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx
	rdmsr
	orl	$0x900, %eax			/* LME, NXE */
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000001, %eax
	movl	%eax, %cr0
	ljmp	$0x08, $entry64

	.code64
entry64:
	movl	%esi, %ebp
	shll	$12, %ebp
	addl	$PERCPU, %ebp
	leaq	STACK(%rbp), %rsp
	movq	%rsp, TSS+4(%rbp)
	movw	$104, TSS+102(%rbp)
	leal	0(,%esi,8), %eax
	leal	0x38(%eax,%eax), %eax
	ltr	%ax
	lidt	idt_pointer(%rip)
	movl	%esi, %ebx
	shll	$16, %ebx
	addl	$0x1000000, %ebx		/* 64 KiB each, from 16 MiB on */
	movabsq	$0x8000000000, %rax
	addq	%rbx, %rax
	movq	%rax, MAILBOX(%rbp)
#ifdef TDX
	xorl	%eax, %eax			/* TDG.VP.VMCALL <MapGPA> */
	movl	$0xfc00, %ecx
	xorl	%r10d, %r10d
	movl	$0x10001, %r11d
	movq	%rbx, %r12
	btsq	$51, %r12
	movl	$0x10000, %r13d
	.byte	0x66, 0x0f, 0x01, 0xcc
#else
	movl	$16, %edi			/* page state changes by the MSR protocol */
1:	movl	$0xc0010130, %ecx
	movl	%ebx, %eax
	orl	$0x014, %eax
	movl	$0x00200000, %edx
	wrmsr
	.byte	0xf3, 0x0f, 0x01, 0xd9
	addl	$0x1000, %ebx
	decl	%edi
	jnz	1b
#endif
finished:
	movq	MAILBOX(%rbp), %r14
	movq	$0, (%r14)
	movq	$1, 8(%r14)			/* here */
wait:
	pause
	movq	(%r14), %rcx
	testq	%rcx, %rcx
	jz	wait
	movq	%rcx, REMAINING(%rbp)
	leaq	OP_SIZE(%r14), %rax
	movq	%rax, OPERATION(%rbp)
run:
	movq	OPERATION(%rbp), %r15
	movq	%r15, %rsi
	leal	TO_CODE(%rbp), %edi
	movl	$8, %ecx
	cld
	rep movsq
	xorl	%ecx, %ecx
	movq	%rcx, %cr2
	movl	$0x10, %edx
	movq	OP_CS(%r15), %rax
	testb	$3, %al
	jz	1f
	movl	$0x23, %edx
1:	leaq	STACK(%rbp), %rsp
	pushq	%rdx
	leaq	0x800(%rbp), %rcx
	pushq	%rcx
	pushq	OP_RFLAGS(%r15)
	pushq	%rax
	leal	TO_CODE(%rbp), %ecx
	pushq	%rcx
	movq	R(0)(%r15), %rax
	movq	R(1)(%r15), %rcx
	movq	R(2)(%r15), %rdx
	movq	R(3)(%r15), %rbx
	movq	R(5)(%r15), %rbp
	movq	R(6)(%r15), %rsi
	movq	R(7)(%r15), %rdi
	movq	R(8)(%r15), %r8
	movq	R(9)(%r15), %r9
	movq	R(10)(%r15), %r10
	movq	R(11)(%r15), %r11
	movq	R(12)(%r15), %r12
	movq	R(13)(%r15), %r13
	movq	R(14)(%r15), %r14
	movq	R(15)(%r15), %r15
	iretq

handled:
	pushq	%rbp
	pushq	%rax
	movq	%rsp, %rbp
	andq	$-4096, %rbp
	movq	OPERATION(%rbp), %rax
	popq	R(0)(%rax)
	popq	R(5)(%rax)
	movq	%rcx, R(1)(%rax)
	movq	%rdx, R(2)(%rax)
	movq	%rbx, R(3)(%rax)
	movq	%rsi, R(6)(%rax)
	movq	%rdi, R(7)(%rax)
	movq	%r8, R(8)(%rax)
	movq	%r9, R(9)(%rax)
	movq	%r10, R(10)(%rax)
	movq	%r11, R(11)(%rax)
	movq	%r12, R(12)(%rax)
	movq	%r13, R(13)(%rax)
	movq	%r14, R(14)(%rax)
	movq	%r15, R(15)(%rax)
	popq	OP_VECTOR(%rax)
	popq	OP_ERROR(%rax)
	popq	OP_RIP(%rax)
	addq	$8, %rsp
	popq	OP_RFLAGS(%rax)
	popq	R(4)(%rax)
	movq	%cr2, %rcx
	movq	%rcx, OP_CR2(%rax)
	addq	$OP_SIZE, OPERATION(%rbp)
	decq	REMAINING(%rbp)
	jnz	run
	jmp	finished

	.org	HANDLERS
	.set	i, 0
	.rept	0x41
	.balign	16
	.if	(i != 8) && (i < 10 || i > 14) && (i != 17) && (i != 21) && (i != 29) && (i != 30)
	pushq	$0
	.endif
	pushq	$i
	jmp	handled
	.set	i, i + 1
	.endr

	.org	0xfff0
#ifdef SNP
	.code16
	jmp	entry16
#else
	.code32
	jmp	entry32
#endif
	.org	0x10000
