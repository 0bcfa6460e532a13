# SPDX-License-Identifier: Apache-2.0
"""What makes mounts for a container is gone when whoever makes the container is."""

from __future__ import annotations

import os
import posix
import select
import signal
import time

from lib.patience import patient
from lib.support import need
from urunc.storage import detached_mounts

MAP = "0 100000 65536\n"


def test_a_killed_creator_leaves_no_process() -> None:
    """It would have the lock of the container's directory, and `delete` would wait for it for ever:
    here the creator is killed before its child has done anything."""
    need("root")
    hear, tell = os.pipe()
    creator = os.fork()
    if creator == 0:
        fork, parent = os.fork, os.getpid()

        def slow() -> int:
            pid = fork()
            if pid:
                os.write(tell, b"f")
            if pid == 0:
                while os.getppid() == parent:
                    time.sleep(0.01)
            return pid

        vars(posix)["fork"] = slow
        detached_mounts.user_namespace(MAP, MAP, "a test")
        os._exit(0)
    os.close(tell)
    assert os.read(hear, 1) == b"f"
    os.kill(creator, signal.SIGKILL)
    os.waitpid(creator, 0)
    # the end of the pipe: nobody has its other end any more
    assert select.select([hear], [], [], patient(5))[0], "a process is left"
    assert os.read(hear, 1) == b""
    os.close(hear)
