# SPDX-License-Identifier: Apache-2.0
"""The seccomp programs of a monitor: ours where it has none of its own, and, where the
administrator asks for it, the specification's on top; and the specification's for an application in
a Linux guest.

linux.seccomp is written for an application; a monitor makes other system calls. So it is not
stacked on the monitor's own filter unless `monitors.NAME.spec_seccomp` says so (docs/security.md);
where urunc's init runs the application in the guest, it installs it there. Runs in the runtime:
libseccomp compiles what init installs.
"""

from __future__ import annotations

from urunc.bundle.document import Object
from urunc.errors import HostError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Rule = tuple[str, int, tuple[tuple[int, int, int, int], ...]]
    """(system call, action, conditions: (argument, comparison, value, second value))"""

EPERM = 1
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
"""seccomp.h of libseccomp; errors and trace take a number in the low half."""
OPERATORS = (
    "", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
)  # fmt: skip
"""enum scmp_compare, by number."""
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
"""Those of the machines that guests have, by seccomp.h's tokens (AUDIT_ARCH_ of linux/audit.h)."""
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}
"""seccomp(2)'s, but for what is about a listener."""


def compile_all(own: str, spec: Any) -> list[tuple[int, str]]:
    """(flags, program in hexadecimal), in the order to install them. `own` is the Launch's
    `seccomp`, `spec` a linux.seccomp or None. Raises HostError, SpecError."""
    programs = []
    if own not in ("", "own"):
        from urunc.linux.seccomp import ALLOW, ENOSYS

        rules: list[Rule] = [(name, ALLOW, ()) for name in own.split()]
        programs.append((0, _compile(ENOSYS, rules, ())))
    if spec is not None:
        # a monitor makes no calls of another architecture than its own
        programs.append(_of_profile(Object(spec, "linux.seccomp"), others=False))
    return programs


def for_application(spec: Any) -> tuple[str, int]:
    """(program in hexadecimal, flags) of a linux.seccomp for an application in a Linux guest.
    Raises HostError where libseccomp is missing, SpecError."""
    flags, program = _of_profile(Object(spec, "linux.seccomp"), others=True)
    return program, flags


def _of_profile(profile: Object, *, others: bool) -> tuple[int, str]:
    default, rules = _profile(profile)
    names = _known(profile, "architectures", ARCHITECTURES)
    flags = sum(FLAGS[name] for name in set(_known(profile, "flags", FLAGS)))
    architectures = tuple(ARCHITECTURES[name] for name in names if others)
    return flags, _compile(default, rules, architectures)


def _known(profile: Object, key: str, known: Mapping[str, int]) -> tuple[str, ...]:
    names = profile.texts(key)
    for index, name in enumerate(names):
        if name not in known:
            raise profile.wrong(
                f"{key}[{index}]", f"'{name}' is not supported", f"known: {', '.join(known)}"
            )
    return names


def _compile(default: int, rules: list[Rule], architectures: tuple[int, ...]) -> str:
    from urunc.linux.seccomp import compile_rules

    try:
        return compile_rules(default, rules, architectures).hex()
    except ImportError as error:
        raise HostError(f"seccomp filter: {error}", "install libseccomp (libseccomp2)") from None
    except OSError as error:
        raise SpecError(f"config.json: linux.seccomp: libseccomp refuses it: {error}") from None


def _profile(profile: Object) -> tuple[int, list[Rule]]:
    default = _action(profile, "defaultAction", "defaultErrnoRet")
    rules: list[Rule] = []
    for item in profile.objects("syscalls"):
        action = _action(item, "action", "errnoRet")
        if action == default:
            continue  # libseccomp refuses to say it twice
        conditions = tuple(_condition(condition) for condition in item.objects("args"))
        for name in item.texts("names"):
            rules.append((name, action, conditions))
    return default, rules


def _action(holder: Object, key: str, errno_key: str) -> int:
    name = holder.text(key, required=True)
    if name not in ACTIONS:
        hint = f"known: {', '.join(ACTIONS)}"
        if name == "SCMP_ACT_NOTIFY":
            hint = "nobody on the host can be notified of a guest's system calls"
        raise holder.wrong(key, f"'{name}' is not supported", hint)
    number = holder.number(errno_key, maximum=0xFFFF)
    if name in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return ACTIONS[name] | (EPERM if number is None else number)
    if number:
        raise holder.wrong(errno_key, f"{name} has no number")
    return ACTIONS[name]


def _condition(item: Object) -> tuple[int, int, int, int]:
    operator = item.text("op", required=True)
    if operator not in OPERATORS:
        raise item.wrong("op", f"unknown '{operator}'", f"known: {', '.join(OPERATORS[1:])}")
    biggest = (1 << 64) - 1
    return (
        item.number("index", maximum=5) or 0,
        OPERATORS.index(operator),
        item.number("value", maximum=biggest) or 0,
        item.number("valueTwo", maximum=biggest) or 0,
    )
