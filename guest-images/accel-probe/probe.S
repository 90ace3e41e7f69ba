/* SPDX-License-Identifier: MIT */
/*
 * Boot sector that proves an accelerator can run a guest: it goes from real mode to 64-bit mode with
 * paging on, runs CPUID there and reports through QEMU's isa-debug-exit device, which ends QEMU with
 * status (0x2a << 1) | 1 = 85. A present /dev/kvm whose KVM cannot emulate gets stuck on the way.
 *
 * Assemble: gcc -c -m64 probe.S -o probe.o && ld -N -Ttext 0x7c00 -e start --oformat binary probe.o
 * tests/unit/test_accel.py checks that harness/host/accel.py embeds just these bytes.
 */
	.code16
	.globl	start
start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	/* Page tables at 0x1000, 0x2000, 0x3000: identity map of the first 2 MiB. */
	movw	$0x1000, %di
	movw	$0x1800, %cx
	cld
	rep stosw
	movl	$0x2003, 0x1000
	movl	$0x3003, 0x2000
	movl	$0x0083, 0x3000
	movl	$0x20, %eax		/* CR4.PAE */
	movl	%eax, %cr4
	movl	$0x1000, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	orl	$0x100, %eax
	wrmsr
	lgdt	gdt_pointer
	movl	$0x80000001, %eax	/* CR0.PG | CR0.PE */
	movl	%eax, %cr0
	ljmp	$8, $long_mode
	.code64
long_mode:
	xorl	%eax, %eax
	cpuid
	movw	$0xf4, %dx
	movb	$0x2a, %al
	outb	%al, %dx
stop:	hlt
	jmp	stop
	.balign	8
gdt:	.quad	0, 0x00209a0000000000	/* null; 64-bit code, present */
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt
	.org	510
	.word	0xaa55
