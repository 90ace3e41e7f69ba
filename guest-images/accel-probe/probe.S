/* SPDX-License-Identifier: MIT */
/*
 * Boot sector that proves an accelerator can run a guest: it goes from real mode to 64-bit mode with
 * paging on, does there what a kernel will do, and reports through QEMU's isa-debug-exit device, which
 * ends QEMU with status (0x2a << 1) | 1 = 85.
 *
 * A KVM that has to emulate the guest's kernel gets stuck on the way. Some cannot leave real mode. Some
 * (kvm_pvm, for a kernel without PVM) emulate ring 0 one instruction after the other, some hundred
 * times slower than TCG, until they meet one that KVM's emulator does not know: CMPXCHG16B, which SLUB
 * uses on every processor that has it.
 *
 * Assemble: gcc -c -m64 probe.S -o probe.o && ld -N -Ttext 0x7c00 -e start --oformat binary probe.o
 * tests/unit/test_host_accel.py checks that harness/host/accel.py embeds just these bytes.
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
	movl	$1, %eax
	cpuid
	btl	$13, %ecx		/* CX16 */
	jnc	1f
	movl	$0x4000, %edi
	lock cmpxchg16b (%rdi)
1:	movl	$100000000, %ecx	/* 50 ms on a processor, minutes in an emulator */
2:	decl	%ecx
	jnz	2b
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
