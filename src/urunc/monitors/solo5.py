# SPDX-License-Identifier: Apache-2.0
"""Solo5's tenders: hvt (on KVM) and spt (a process with a handful of system calls).

Both take `--mem`, one option per device that the guest's manifest declares, `--`, the unikernel and
its arguments. A tender attaches to a TAP device only when it is up, opens a block file for reading
and writing, and has one vCPU. spt filters its own system calls; hvt does not, so it gets the list
below.
"""

from __future__ import annotations

from urunc.monitors import GIB, MIB, Launch, Machine, Monitor, Program

SPT_BASE_BYTES = 1 << 30
"""The load address of a solo5-spt that is not position-independent; its guest gets the memory below
it (tenders/spt/spt_core.c, spt_init; configure.sh, CONFIG_SPT_TENDER_NO_PIE)."""
LARGE_SINCE = (0, 9)
"""The first version whose guests have 4 GiB on x86_64, not one (X86_GUEST_MAX_MEM_SIZE)."""

LINE_BYTES = 8191
"""Of a guest's command line, without its NUL (HVT_CMDLINE_SIZE, SPT_CMDLINE_SIZE)."""

# The system calls that solo5-hvt makes from execve on, with and without devices (traced with v0.9.0
# and v0.12.1 on glibc), and those that another C library or a signal may add.
HVT_SYSTEM_CALLS = (
    "access arch_prctl bind brk clock_gettime clone3 close dup epoll_create1 epoll_ctl "
    "epoll_pwait eventfd2 execve exit exit_group fcntl fstat futex getpid getrandom getsockname "
    "gettid ioctl lseek madvise memfd_create mmap mprotect munmap newfstatat open openat "
    "personality ppoll prctl pread64 prlimit64 pwrite64 read readv recvmsg restart_syscall rseq "
    "rt_sigaction rt_sigprocmask rt_sigreturn sched_yield seccomp sendto set_robust_list "
    "set_tid_address socket stat tgkill timerfd_create timerfd_settime write writev"
)


class Tender(Monitor):
    """The common part of both tenders."""

    formats = {
        "x86_64": frozenset(("elf",)),
        "aarch64": frozenset(("elf",)),
    }
    overhead_tasks = 2  # its only one, and KVM's
    max_nics = 16
    max_disks = 16
    # on SIGTERM hvt ends with 1; spt has no handler, so as PID 1 of a namespace it never gets it
    stop_signal = 9
    opens_for_writing = True
    minimum_version = (0, 6)

    def program_name(self, architecture: str) -> str:
        return f"solo5-{self.name}"

    def launch(self, machine: Machine, program: Program) -> Launch:
        argv = [program.path, f"--mem={machine.memory_bytes // MIB}"]
        for nic in machine.nics:
            argv += [f"--net:{nic.name}={nic.tap}", f"--net-mac:{nic.name}={nic.mac}"]
        argv += [f"--block:{disk.name}={disk.path}" for disk in machine.disks]
        argv += [*machine.arguments, "--", machine.kernel, *machine.words.words]
        devices = (
            *(("/dev/kvm",) if self.needs_kvm else ()),
            *(("/dev/net/tun",) if machine.nics else ()),
        )
        return Launch(argv=tuple(argv), files={}, devices=devices, seccomp=self.filter(machine))

    def line_room(self, devices: int, program: Program, architecture: str) -> int:
        return LINE_BYTES

    def ending(self, code: int) -> str:
        if code == 255:
            return "the guest aborted"
        return f"the guest ended with {code}"

    def filter(self, machine: Machine) -> str:
        """`Launch.seccomp` for a machine."""
        return "own"


class Hvt(Tender):
    """The hardware virtualized tender."""

    name = "hvt"
    solo5_target = "hvt"
    needs_kvm = True
    overhead_mib = 2
    overhead_per_gib_mib = 8

    def most_memory_bytes(self, program: Program, architecture: str) -> int:
        """As in Monitor: 4 GiB, because the pointers in hypercalls have 32 bits."""
        version = tuple(map(int, program.version.split("."))) if program.version else LARGE_SINCE
        return 4 * GIB if architecture != "x86_64" or version >= LARGE_SINCE else GIB

    def filter(self, machine: Machine) -> str:
        return HVT_SYSTEM_CALLS if machine.seccomp else ""


class Spt(Tender):
    """The sandboxed process tender."""

    name = "spt"
    solo5_target = "spt"
    overhead_mib = 2
    overhead_per_gib_mib = 3

    def most_memory_bytes(self, program: Program, architecture: str) -> int:
        return 0 if program.position_independent else SPT_BASE_BYTES


MONITORS = {"hvt": Hvt, "spt": Spt}
