# SPDX-License-Identifier: Apache-2.0
"""Whether KVM not only opens but runs a guest: a few instructions, by the kernel's API itself
(Documentation/virt/kvm/api.rst, arch/x86/include/uapi/asm/kvm.h).

A nested KVM without the processor's help opens, and emulates: what its emulator does not know ends
the guest with KVM_EXIT_INTERNAL_ERROR. Programs of integer instructions run there, and nearly no
other.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import signal
from fcntl import ioctl

GET_API_VERSION, CREATE_VM, CREATE_VCPU, RUN = 0xAE00, 0xAE01, 0xAE41, 0xAE80
GET_VCPU_MMAP_SIZE, SET_USER_MEMORY_REGION = 0xAE04, 0x4020AE46
GET_SREGS, SET_SREGS, SET_REGS = 0x8138AE83, 0x4138AE84, 0x4090AE82
API_VERSION = 12
EXIT_IO, EXIT_INTERNAL_ERROR = 2, 17
MEMORY_BYTES, CODE, DATA = 1 << 16, 0x1000, 0x2000
PORT = 0x10
TIMEOUT_S = 2.0

TELL = b"\xb0\x2a\xe6\x10\xf4"
"""mov al, 42; out 0x10, al; hlt"""
INTEGER = TELL
SSE = b"\x0f\x57\xc0\x0f\x11\x05\x00\x20\x00\x00" + TELL
"""xorps xmm0, xmm0; movups [0x2000], xmm0; and the same."""


class _Segment(ctypes.Structure):
    """struct kvm_segment."""

    _fields_ = [
        ("base", ctypes.c_uint64), ("limit", ctypes.c_uint32), ("selector", ctypes.c_uint16),
        *((name, ctypes.c_uint8) for name in (
            "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable", "padding",
        )),
    ]  # fmt: skip


class _SpecialRegisters(ctypes.Structure):
    """struct kvm_sregs."""

    _fields_ = [
        *((name, _Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("tables", ctypes.c_uint64 * 4),
        *((name, ctypes.c_uint64) for name in (
            "cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base",
        )),
        ("interrupts", ctypes.c_uint64 * 4),
    ]  # fmt: skip


class _Registers(ctypes.Structure):
    """struct kvm_regs."""

    _fields_ = [
        ("general", ctypes.c_uint64 * 16),
        ("rip", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


class _Region(ctypes.Structure):
    """struct kvm_userspace_memory_region."""

    _fields_ = [
        ("slot", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("guest", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64), ("host", ctypes.c_uint64),
    ]  # fmt: skip


def runs(device: str = "/dev/kvm") -> tuple[bool, str]:
    """(whether a guest of integer instructions runs, why one with SSE instructions does not, or
    ""). Raises OSError where the device or a machine is not to be had. On other machines than x86
    only as far as making a virtual CPU."""
    system = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        version = ioctl(system, GET_API_VERSION, 0)
        if version != API_VERSION:
            return False, f"its API has the version {version}"
        if platform.machine() != "x86_64":
            os.close(ioctl(system, CREATE_VM, 0))
            return True, ""
        why = _run(system, INTEGER)
        return (False, why) if why else (True, _run(system, SSE))
    finally:
        os.close(system)


def _run(system: int, code: bytes) -> str:
    """Why the code did not come to its `out`, "" if it did."""
    machine = ioctl(system, CREATE_VM, 0)
    memory = mmap.mmap(-1, MEMORY_BYTES)
    cpu = shared = None
    try:
        memory[CODE : CODE + len(code)] = code
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        ioctl(machine, SET_USER_MEMORY_REGION, _Region(0, 0, 0, MEMORY_BYTES, address))
        cpu = ioctl(machine, CREATE_VCPU, 0)
        shared = mmap.mmap(cpu, ioctl(system, GET_VCPU_MMAP_SIZE, 0))
        special = _SpecialRegisters()
        ioctl(cpu, GET_SREGS, special)
        _protected_mode(special)
        ioctl(cpu, SET_SREGS, special)
        ioctl(cpu, SET_REGS, _Registers(rip=CODE, flags=2))
        return _exit(cpu, shared)
    finally:
        if shared:
            shared.close()
        for fd in (cpu, machine):
            if fd is not None:
                os.close(fd)


def _protected_mode(special: _SpecialRegisters) -> None:
    """32 bits, all memory in every segment, no paging, SSE switched on."""
    for name, kind in (("cs", 11), ("ds", 3), ("es", 3), ("ss", 3)):
        segment = getattr(special, name)
        segment.base, segment.limit, segment.selector = 0, 0xFFFFFFFF, 8 if name == "cs" else 16
        segment.type, segment.present, segment.db, segment.s, segment.g = kind, 1, 1, 1, 1
    special.cr0 = special.cr0 & ~4 | 3  # not EM; MP, PE
    special.cr4 |= 0x600  # OSFXSR, OSXMMEXCPT


def _exit(cpu: int, shared: mmap.mmap) -> str:
    def interrupt(_number: int, _frame: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        ioctl(cpu, RUN, 0)
    except InterruptedError:
        return f"it did not end within {TIMEOUT_S:g} s"
    except OSError as error:
        return f"KVM_RUN: {error.strerror}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    reason = int.from_bytes(shared[8:12], "little")
    if reason == EXIT_IO:
        return ""
    if reason == EXIT_INTERNAL_ERROR:
        return "KVM_EXIT_INTERNAL_ERROR: KVM emulates here, and does not know the instruction"
    return f"KVM_RUN ended with exit reason {reason}"
