# SPDX-License-Identifier: Apache-2.0
"""OCI hooks: programs that an engine wants run at given points of a container's life.

Each gets the container's state on standard input, its own environment and nothing of ours, and its
time limit. Runs in the runtime for most kinds, in init for createContainer, and in init's helper in
the image's root for startContainer (config.md, POSIX-platform Hooks).
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
    """Run the hooks of a kind in order; the first that fails raises HookError."""
    for number, hook in enumerate(hooks):
        run(f"{kind}[{number}]", hook, state)


def run(name: str, hook: Hook, state: str) -> None:
    """Run one hook with the state (JSON text) on its standard input; raises HookError."""
    given, output = posix.memfd_create("hook-input"), posix.memfd_create("hook-output")
    try:
        write_all(given, state.encode())
        posix.lseek(given, 0, 0)
        pid = posix.fork()
        if pid == 0:
            _become(hook, given, output)
        status = _wait(name, hook, pid)
        if status:
            text = posix.pread(output, OUTPUT_LIMIT_BYTES, 0).decode("utf-8", "replace").strip()
            said = f": {text}" if text else ""
            code = posix.waitstatus_to_exitcode(status)
            how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
            raise HookError(f"hook {name} '{hook.path}': {how}{said}")
    finally:
        posix.close(given)
        posix.close(output)


def _become(hook: Hook, given: int, output: int) -> None:
    try:
        posix.dup2(given, 0)
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
                raise HookError(f"hook {name} '{hook.path}': no end within {hook.timeout_s} s")
        finally:
            posix.close(pidfd)
    return posix.waitpid(pid, 0)[1]
