# SPDX-License-Identifier: MIT
"""What QEMU (7.2 to 11.1: accel/kvm, target/i386, hw/i386, softmmu) says when it will not start a
guest, and what to do about it."""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Refusal(NamedTuple):
    cause: str
    hint: str


KVM_GAVE_UP = "KVM internal error"
"""For KVM_EXIT_INTERNAL_ERROR (accel/kvm/kvm-all.c): QEMU then waits, with the guest stopped."""
_HINT = "it is off in the BIOS, the kernel or {}: `cvm-harness doctor --target={}` says which"

REFUSALS = {
    r"vm-type TDX not supported by KVM": Refusal(
        "KVM on this host offers no TDX guests", _HINT.format("kvm_intel.tdx", "tdx")
    ),
    r"vm-type SEV-SNP not supported by KVM|kernel does not support requested .* VM type": Refusal(
        "KVM on this host offers no SEV-SNP guests", _HINT.format("kvm_amd.sev_snp", "snp")
    ),
    r"Could not access KVM kernel module: Permission denied": Refusal(
        "this user may not use /dev/kvm", "usermod -aG kvm USER, then log in again"
    ),
    r"Could not access KVM kernel module: No such file or directory": Refusal(
        "there is no /dev/kvm",
        "load kvm_amd or kvm_intel; in a container: --device /dev/kvm; `cvm-harness doctor`",
    ),
    r"SEV.*requires KVM|KVM required": Refusal(
        "a confidential guest was to run without KVM",
        "leave out --accel; where there is no KVM use --target=emulated",
    ),
    r"does not accept value 'sev-snp-guest'|invalid object type: sev-snp-guest": Refusal(
        "this QEMU has no SEV-SNP", "install QEMU 9.1 or later, or name it with CVM_HARNESS_QEMU"
    ),
    r"does not accept value 'tdx-guest'|invalid object type: tdx-guest": Refusal(
        "this QEMU has no TDX", "install QEMU 10.1 or later, or name it with CVM_HARNESS_QEMU"
    ),
    r"(?s)KVM_TDX_INIT_VM.*No space left|No space left on device.*KVM_TDX_INIT_VM": Refusal(
        "the host is out of TDX key ids",
        "end other TDX guests; /sys/fs/cgroup/misc.capacity and misc.current count them",
    ),
    r"Hardware RNG .* is busy occupied": Refusal(
        "RDRAND and RDSEED gave TDX no entropy in time",
        "look for a program that drains the host's random numbers, then try again",
    ),
    r"Invalid attributes 0x[0-9a-f]+ for TDX VM": Refusal(
        "the host's KVM does not offer these TD attributes",
        "leave out --guest-debug: KVM offers no debug TDs as of Linux 7.3",
    ),
    r"Named cpu model is not supported for TDX": Refusal(
        "QEMU takes no named CPU model for TDX", "leave out --cpu-model"
    ),
    r"TDX requires guest CPU physical bits": Refusal(
        "the guest's physical address width is not the host's",
        "leave out --cpu-model, so that it is the host's",
    ),
    r"Cannot find TDX_METADATA_OFFSET_GUID|failed to parse TDVF": Refusal(
        "the firmware is not built for TDX",
        "name another with --firmware, or let it be found by descriptor",
    ),
    r"Failed to locate SEV metadata header|SEV information block/Firmware GUID": Refusal(
        "the firmware is not built for SEV-SNP",
        "name another with --firmware, or let it be found by descriptor",
    ),
    r"guest firmware has no hashes table GUID|guest firmware hashes table area is invalid": Refusal(
        "the firmware has no room for kernel hashes",
        "--kernel-hashes=off, or an AmdSev build of OVMF (OVMF.amdsev.fd)",
    ),
    r"SNP_LAUNCH_START.*ret=-25": Refusal(
        "the host's kernel and this QEMU do not match: one speaks an older SNP interface",
        "Linux 6.11 or later with QEMU 9.1 or later, both from upstream",
    ),
    r"SNP_LAUNCH_START.*fw_error=7\b|Policy is not allowed": Refusal(
        "the secure processor does not allow this guest policy",
        "--snp-policy: bit 16 must be set while the host has SMT on; `cvm-harness doctor`",
    ),
    r"SNP_LAUNCH_START.*ret=-\d+": Refusal(
        "the secure processor would not start the guest",
        "its firmware error is in the text above; dmesg | grep -iE 'sev|ccp'",
    ),
    r"CPUID validation failed|failed update CPUID page": Refusal(
        "the secure processor does not accept the CPUID values of this CPU model",
        "leave out --cpu-model: EPYC-v4 works on all SNP hosts",
    ),
    r"(?i)failed to open /dev/sev|/dev/sev.*(?:permission denied|no such file)": Refusal(
        "QEMU cannot open /dev/sev",
        "chgrp kvm /dev/sev && chmod g+rw /dev/sev, or by udev; `cvm-harness doctor --target=snp`",
    ),
    r"pflash with kvm requires KVM readonly memory support": Refusal(
        "the firmware was given as pflash", "give it with --firmware, which uses -bios"
    ),
    r"(?:does not|doesn't) support SMM": Refusal(
        "confidential guests have no SMM, and the firmware or an option asks for it",
        "use firmware built without SMM",
    ),
    r"kvm_create_guest_memfd|KVM_CREATE_GUEST_MEMFD|guest_memfd.*(?:failed|not supported)": Refusal(
        "KVM gave no private memory (guest_memfd)",
        "the host's kernel needs CONFIG_KVM_GENERIC_PRIVATE_MEM (6.11 or later)",
    ),
    r"failed to set MSR|KVM internal error": Refusal(
        "KVM opens here but cannot run a guest: most likely this is a nested machine",
        "use --accel=tcg or another host; `cvm-harness doctor`",
    ),
    r"hugetlb.*Cannot allocate memory|os_mem_prealloc": Refusal(
        "the host has too few huge pages",
        "reserve more in /sys/kernel/mm/hugepages, or leave out --huge-pages",
    ),
    r"Cannot allocate memory|cannot set up guest memory": Refusal(
        "the host is out of memory", "choose a smaller guest, or free some memory"
    ),
    r"No space left on device": Refusal(
        "the disk is full", "free some space where the run directories are"
    ),
}
"""By a pattern for what QEMU says, most specific first."""


def explain(said: Sequence[str]) -> tuple[Refusal, str] | None:
    """The refusal that QEMU's own output amounts to, and the words that say it."""
    for pattern, refusal in REFUSALS.items():
        if re.search(pattern, "\n".join(said)):
            return refusal, next((line for line in said if re.search(pattern, line)), said[0])
    return None
