# SPDX-License-Identifier: MIT
"""What QEMU says when it will not start a guest, and what to do about it.

The texts are QEMU's own (7.2 to 11.1: accel/kvm/kvm-all.c, target/i386/sev.c,
target/i386/kvm/tdx.c, hw/i386/pc_sysfw.c, softmmu/); what they mean is from platform documentation.
Most specific first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """One known refusal."""

    pattern: str
    cause: str
    hint: str


KVM_GAVE_UP = "KVM internal error"
"""For KVM_EXIT_INTERNAL_ERROR (accel/kvm/kvm-all.c): QEMU then waits, with the guest stopped."""
_HINT = "it is off in the BIOS, the kernel or {}: `cvm-harness doctor --target={}` says which"

REFUSALS = (
    Refusal(
        r"vm-type TDX not supported by KVM",
        "KVM on this host offers no TDX guests",
        _HINT.format("kvm_intel.tdx", "tdx"),
    ),
    Refusal(
        r"vm-type SEV-SNP not supported by KVM|host kernel does not support requested .* VM type",
        "KVM on this host offers no SEV-SNP guests",
        _HINT.format("kvm_amd.sev_snp", "snp"),
    ),
    Refusal(
        r"Could not access KVM kernel module: Permission denied",
        "this user may not use /dev/kvm",
        "usermod -aG kvm USER, then log in again",
    ),
    Refusal(
        r"Could not access KVM kernel module: No such file or directory",
        "there is no /dev/kvm",
        "load kvm_amd or kvm_intel; in a container: --device /dev/kvm; `cvm-harness doctor`",
    ),
    Refusal(
        r"cannot set up private guest memory for \S+: KVM required|SEV.*requires KVM|KVM required",
        "a confidential guest was to run without KVM",
        "leave out --accel; where there is no KVM use --target=emulated",
    ),
    Refusal(
        r"does not accept value 'sev-snp-guest'|invalid object type: sev-snp-guest",
        "this QEMU has no SEV-SNP",
        "install QEMU 9.1 or later, or name it with CVM_HARNESS_QEMU",
    ),
    Refusal(
        r"does not accept value 'tdx-guest'|invalid object type: tdx-guest",
        "this QEMU has no TDX",
        "install QEMU 10.1 or later, or name it with CVM_HARNESS_QEMU",
    ),
    Refusal(
        r"(?s)KVM_TDX_INIT_VM.*No space left on device|No space left on device.*KVM_TDX_INIT_VM",
        "the host is out of TDX key ids",
        "end other TDX guests; /sys/fs/cgroup/misc.capacity and misc.current count them",
    ),
    Refusal(
        r"Hardware RNG .* is busy occupied",
        "RDRAND and RDSEED gave TDX no entropy in time",
        "look for a program that drains the host's random numbers, then try again",
    ),
    Refusal(
        r"Invalid attributes 0x[0-9a-f]+ for TDX VM",
        "the host's KVM does not offer these TD attributes",
        "leave out --guest-debug: KVM offers no debug TDs as of Linux 7.3",
    ),
    Refusal(
        r"Named cpu model is not supported for TDX",
        "QEMU takes no named CPU model for TDX",
        "leave out --cpu-model",
    ),
    Refusal(
        r"TDX requires guest CPU physical bits",
        "the guest's physical address width is not the host's",
        "leave out --cpu-model, so that it is the host's",
    ),
    Refusal(
        r"Cannot find TDX_METADATA_OFFSET_GUID|failed to parse TDVF",
        "the firmware is not built for TDX",
        "name another with --firmware, or let it be found by descriptor",
    ),
    Refusal(
        r"Failed to locate SEV metadata header|SEV information block/Firmware GUID Table block not",
        "the firmware is not built for SEV-SNP",
        "name another with --firmware, or let it be found by descriptor",
    ),
    Refusal(
        r"guest firmware has no hashes table GUID|guest firmware hashes table area is invalid",
        "the firmware has no room for kernel hashes",
        "--kernel-hashes=off, or an AmdSev build of OVMF (OVMF.amdsev.fd)",
    ),
    Refusal(
        r"SNP_LAUNCH_START.*ret=-25",
        "the host's kernel and this QEMU do not match: one speaks an older SNP interface",
        "Linux 6.11 or later with QEMU 9.1 or later, both from upstream",
    ),
    Refusal(
        r"SNP_LAUNCH_START.*fw_error=7\b|Policy is not allowed",
        "the secure processor does not allow this guest policy",
        "--snp-policy: bit 16 must be set while the host has SMT on; `cvm-harness doctor`",
    ),
    Refusal(
        r"SNP_LAUNCH_START.*ret=-\d+",
        "the secure processor would not start the guest",
        "its firmware error is in the text above; dmesg | grep -iE 'sev|ccp'",
    ),
    Refusal(
        r"CPUID validation failed|failed update CPUID page",
        "the secure processor does not accept the CPUID values of this CPU model",
        "leave out --cpu-model: EPYC-v4 works on all SNP hosts",
    ),
    Refusal(
        r"(?i)failed to open /dev/sev|/dev/sev.*(?:permission denied|no such file)",
        "QEMU cannot open /dev/sev",
        "chgrp kvm /dev/sev && chmod g+rw /dev/sev, or by udev; `cvm-harness doctor --target=snp`",
    ),
    Refusal(
        r"pflash with kvm requires KVM readonly memory support",
        "the firmware was given as pflash",
        "give it with --firmware, which uses -bios",
    ),
    Refusal(
        r"(?:does not|doesn't) support SMM",
        "confidential guests have no SMM, and the firmware or an option asks for it",
        "use firmware built without SMM",
    ),
    Refusal(
        r"kvm_create_guest_memfd|KVM_CREATE_GUEST_MEMFD|guest_memfd.*(?:failed|not supported)",
        "KVM gave no private memory (guest_memfd)",
        "the host's kernel needs CONFIG_KVM_GENERIC_PRIVATE_MEM (6.11 or later)",
    ),
    Refusal(
        r"failed to set MSR|KVM internal error",
        "KVM opens here but cannot run a guest: most likely this is a nested machine",
        "use --accel=tcg or another host; `cvm-harness doctor`",
    ),
    Refusal(
        r"hugetlb.*Cannot allocate memory|os_mem_prealloc",
        "the host has too few huge pages",
        "reserve more in /sys/kernel/mm/hugepages, or leave out --huge-pages",
    ),
    Refusal(
        r"Cannot allocate memory|cannot set up guest memory",
        "the host is out of memory",
        "choose a smaller guest, or free some memory",
    ),
    Refusal(
        r"No space left on device",
        "the disk is full",
        "free some space where the run directories are",
    ),
)


def explain(said: Sequence[str]) -> Refusal | None:
    """The refusal that QEMU's own output amounts to; None where it is not known."""
    text = "\n".join(said)
    return next((known for known in REFUSALS if re.search(known.pattern, text)), None)
