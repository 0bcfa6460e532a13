# SPDX-License-Identifier: Apache-2.0
"""Runs OCI hooks: programs that an engine has run at fixed points of a container's life.

Each gets the container's state on standard input, its own environment, none of our descriptors, and
its time limit. They run in the runtime for most kinds, in init for createContainer, and in init's
helper in the image's root for startContainer (config.md, POSIX-platform Hooks).
"""

from __future__ import annotations

import posix

from urunc.errors import HookError, reason
from urunc.linux import _linux, process
from urunc.linux.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from urunc.bundle.spec import Hook

OUTPUT_LIMIT_BYTES = 2048


def run_all(kind: str, hooks: Sequence[Hook], state: str) -> None:
    """Run the hooks of a kind in order; raises HookError for the first that fails."""
    for number, hook in enumerate(hooks):
        run(f"{kind}[{number}]", hook, state)


def run(name: str, hook: Hook, state: str) -> None:
    """Run one hook with the state (JSON text) on its standard input; raises HookError."""
    standard_input = posix.memfd_create("hook-input")
    output = posix.memfd_create("hook-output")
    try:
        write_all(standard_input, state.encode())
        posix.lseek(standard_input, 0, 0)
        pid = posix.fork()
        if pid == 0:
            _become(hook, standard_input, output)
        status = _wait(name, hook, pid)
        if status:
            text = posix.pread(output, OUTPUT_LIMIT_BYTES, 0).decode("utf-8", "replace").strip()
            code = posix.waitstatus_to_exitcode(status)
            how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
            raise HookError(f"hook {name} '{hook.path}': {how}{f': {text}' if text else ''}")
    finally:
        posix.close(standard_input)
        posix.close(output)


def _become(hook: Hook, standard_input: int, output: int) -> None:
    try:
        posix.dup2(standard_input, 0)
        posix.dup2(output, 1)
        posix.dup2(output, 2)
        _linux.close_range(3, 0xFFFFFFFF, 0)
        _linux.default_signals()
        environment = dict(variable.split("=", 1) for variable in hook.env)
        posix.execve(hook.path, list(hook.args), environment)
    except OSError as error:
        posix.write(2, f"exec: {reason(error)}".encode())
    except BaseException as error:
        posix.write(2, f"exec: {error}".encode())
    finally:
        posix._exit(127)


def _wait(name: str, hook: Hook, pid: int) -> int:
    if hook.timeout_s:
        pidfd = posix.pidfd_open(pid)
        try:
            if not process.wait_gone(pidfd, hook.timeout_s):
                process.send_signal(pidfd, 9)
                posix.waitpid(pid, 0)
                raise HookError(f"hook {name} '{hook.path}': not done within {hook.timeout_s} s")
        finally:
            posix.close(pidfd)
    return posix.waitpid(pid, 0)[1]
