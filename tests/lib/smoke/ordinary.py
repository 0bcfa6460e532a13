# SPDX-License-Identifier: Apache-2.0
"""What is checked of ordinary containers: 30 checks, by name.

A check returns all that its user sees; what is seen with runc and with urunc must be the same. Each
asserts besides what it is about, so that it is not the same failure. They must leave nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lib.smoke import MIB, Seen, Side

KEPT = """
trap "exit 3" TERM; trap "echo usr1" USR1; echo up; echo err >&2
sleep 1000 & while :; do wait; done
"""
"""What a container does that lives until it is told to end: with 3 on SIGTERM."""
LIMIT = "cat /sys/fs/cgroup/{0}/{1} 2>/dev/null || cat /sys/fs/cgroup/{2}"
"""A limit by its names in v1 (or hybrid) and in v2."""
MEMORY_LIMIT = LIMIT.format("memory", "memory.limit_in_bytes", "memory.max")


class Ordinary(Side):
    """An engine with a runtime for containers of the image `box`."""

    kind = "ordinary"

    def run(
        self, options: str, script: str, code: int | None = 0, stdin: str | None = None
    ) -> Seen:
        """`run --rm` of a script in the ordinary image."""
        words = ("run", "--rm", "--runtime", self.runtime, *options.split(), "box")
        return self.see(*words, "/bin/sh", "-c", script, code=code, stdin=stdin)

    def started(self, name: str) -> Seen:
        """`run -d` of what lives until it is told to end, with a memory limit of 64 MiB."""
        limits = ("--memory", "64m", "--memory-swap", "64m")
        words = ("run", "-d", "--runtime", self.runtime, "--name", name, *limits, "box")
        seen = self.see(*words, "/bin/sh", "-c", KEPT)
        self.engine.wait_for(name, "up\n")
        return seen


def run(side: Ordinary) -> Seen:
    seen = side.run("", "echo out; echo err >&2")
    assert seen == (0, "out\n", "err\n")
    return seen


def exit_code(side: Ordinary) -> list[Seen]:
    words = ("run", "--rm", "--runtime", side.runtime, "box")
    return [
        side.run("", "exit 42", code=42),
        side.see(*words, "nosuch", code=127),
        side.see(*words, "/www", code=126),
    ]


def user(side: Ordinary) -> Seen:
    seen = side.run("--user 1000:1001 --group-add 1002", "id")
    assert seen.out.startswith("uid=1000") and "1002" in seen.out
    return seen


def env(side: Ordinary) -> Seen:
    seen = side.run("--env COLOUR=blue --env=EMPTY=", "env | grep -v HOSTNAME | sort")
    assert "COLOUR=blue\n" in seen.out
    return seen


def stdin(side: Ordinary) -> Seen:
    seen = side.run("--interactive", "cat; echo end", stdin="one\ntwo\n")
    assert seen.out == "one\ntwo\nend\n"
    return seen


def volume(side: Ordinary) -> list[Seen]:
    name = f"{side.name}-volume"
    try:
        seen = [
            side.run(f"--volume {name}:/data", "echo kept >/data/file"),
            side.run(f"--volume {name}:/data:ro", "cat /data/file; echo no >/data/file", code=1),
        ]
    finally:
        side.engine("volume", "rm", name)
    assert seen[1].out == "kept\n" and "Read-only" in seen[1].err
    return seen


def read_only(side: Ordinary) -> Seen:
    seen = side.run("--read-only", "touch /dev/shm/file && touch /file", code=1)
    assert "Read-only" in seen.err
    return seen


def memory(side: Ordinary) -> Seen:
    script = f"{MEMORY_LIMIT}; dd if=/dev/zero of=/dev/null bs=100M count=1; echo $?"
    seen = side.run("--memory 64m --memory-swap 64m", script)
    assert seen.out == f"{64 * MIB}\n137\n"
    return seen


def pids(side: Ordinary) -> Seen:
    limit = LIMIT.format("pids", "pids.max", "pids.max")
    forks = "while n=x$n; [ $n != xxxxxxxxxxxxxxxxxxxxxxxxx ]; do sleep 9 & done"
    # the runtime's own threads count, too, until it has become the program
    seen = side.run("--pids-limit 20", f"{limit}; {forks}", code=2)
    assert seen.out == "20\n" and "can't fork" in seen.err
    return seen


def hostname(side: Ordinary) -> Seen:
    seen = side.run("--hostname inside", "hostname; cat /etc/hostname")
    assert seen.out.split() == ["inside", "inside"]
    return seen


def caps(side: Ordinary) -> list[Seen]:
    seen = [
        side.run(options, "grep Cap /proc/self/status; chown 1 /www || :")
        for options in ("", "--cap-drop ALL --cap-add CHOWN", "--cap-drop ALL")
    ]
    assert "not permitted" in seen[2].err
    assert not seen[1].err
    return seen


def detached(side: Ordinary) -> Any:
    name = f"{side.name}-other"
    try:
        seen = side.started(name)
        assert seen.out == "ID\n"
        status = side.state(name, "Status", "Running", "ExitCode")
    finally:
        side.engine.remove(name)
    assert status == "running true 0"
    return seen, status


def ps(side: Ordinary) -> Seen:
    form = "{{.Names}} {{.Image}} {{.Command}} {{.Ports}}"
    seen = side.see("ps", "--format", form, "--filter", f"name={side.kept}")
    assert seen.out.startswith("NAME-kept ")
    return seen


def logs(side: Ordinary) -> Seen:
    seen = side.logs(side.kept)
    assert seen.out.startswith("up\n") and seen.err == "err\n"
    return seen


def exec_(side: Ordinary) -> list[Seen]:
    options = ("--env", "COLOUR=blue", "--user", "1000", "--workdir", "/www")
    script = "echo $COLOUR; id -u; pwd; exit 4"
    seen = [
        side.see("exec", *options, side.kept, "/bin/sh", "-c", script, code=4),
        side.see("exec", side.kept, "nosuch", code=None),
        side.see("exec", "-i", side.kept, "/bin/sh", "-c", "cat", stdin="hello\n"),
    ]
    assert (seen[0].out, seen[2].out) == ("blue\n1000\n/www\n", "hello\n")
    return seen


def top(side: Ordinary) -> tuple[list[str], list[bool]]:
    head, *lines = side.see("top", side.kept).out.strip().splitlines()
    found = ["sleep 1000" in line for line in lines]
    assert found.count(True) >= 1
    return head.split(), found


def stats(side: Ordinary) -> tuple[int, int]:
    processes, used, limit = side.stats(side.kept)
    assert 0 < used < limit
    assert processes == 2
    return processes, limit


def pause(side: Ordinary) -> Any:
    seen: list[Any] = [side.see("pause", side.kept)]
    try:
        seen += [side.state(side.kept, "Status"), side.see("exec", side.kept, "sh", code=None)]
    finally:
        seen += [side.see("unpause", side.kept), side.state(side.kept, "Status")]
    seen.append(side.see("exec", side.kept, "/bin/sh", "-c", "echo on"))
    assert (seen[1], seen[4], seen[5].out) == ("paused", "running", "on\n")
    return seen


def update(side: Ordinary) -> list[Seen]:
    with side.another() as name:
        seen = [
            side.see("update", "--memory", "96m", "--memory-swap", "96m", name),
            side.see("exec", name, "/bin/sh", "-c", MEMORY_LIMIT),
        ]
    assert seen[1].out == f"{96 * MIB}\n"
    return seen


def stop(side: Ordinary) -> Any:
    with side.another() as name:
        seen = side.see("stop", name), side.state(name, "Status", "ExitCode")
    assert seen[1] == "exited 3"
    return seen


def start(side: Ordinary) -> Any:
    with side.another() as name:
        side.engine("stop", name)
        seen = side.see("start", name), side.state(name, "Status", "ExitCode")
        side.engine.wait_for(name, "up\n", times=2)
    assert seen[1] == "running 0"
    return seen


def restart(side: Ordinary) -> Any:
    with side.another() as name:
        before = side.state(name, "Pid")
        seen = side.see("restart", name), side.state(name, "Status", "ExitCode")
        side.engine.wait_for(name, "up\n", times=2)
        assert side.state(name, "Pid") != before
    assert seen[1] == "running 0"
    return seen


def kill(side: Ordinary) -> Any:
    with side.another() as name:
        seen: list[Any] = [side.see("kill", "--signal", "USR1", name)]
        side.engine.wait_for(name, "usr1\n")
        seen += [side.see("kill", name), side.see("wait", name), side.state(name, "Status")]
    assert (seen[2].out, seen[3]) == ("137\n", "exited")
    return seen


def wait(side: Ordinary) -> list[Seen]:
    with side.another() as name:
        side.engine("exec", "--detach", name, "/bin/sh", "-c", "sleep 0.5; kill -TERM 1")
        seen = [side.see("wait", name), side.see("wait", name)]
    assert [one.out for one in seen] == ["3\n", "3\n"]
    return seen


def rm(side: Ordinary) -> list[Seen]:
    with side.another() as name:
        return [
            side.see("rm", name, code=None),
            side.see(*side.engine.removal, name),
            side.see("inspect", name, code=None),
        ]


def workdir(side: Ordinary) -> Seen:
    seen = side.run("--workdir /www", "pwd; cat index.html")
    assert seen.out.startswith("/www\n")
    return seen


def entrypoint(side: Ordinary) -> Seen:
    words = ("run", "--rm", "--runtime", side.runtime, "--entrypoint", "/bin/busybox", "box")
    seen = side.see(*words, "echo", "words")
    assert seen.out == "words\n"
    return seen


def tmpfs(side: Ordinary) -> Seen:
    script = "df /scratch; dd if=/dev/zero of=/scratch/x bs=2M count=1"
    seen = side.run("--tmpfs /scratch:size=1m", script, code=1)
    assert "No space" in seen.err
    return seen


def tty(side: Ordinary) -> tuple[int, str]:
    script = "test -t 0 && test -t 1 && echo ready; read -r word; echo got $word; exit 6"
    words = ("run", "--rm", "-it", "--runtime", side.runtime, "box", "/bin/sh", "-c", script)
    code, shown = side.engine.on_terminal(*words, keys="hello\r", after="ready\r\n")
    assert code == 6
    assert shown == "ready\r\nhello\r\ngot hello\r\n"
    return code, shown


def cp(side: Ordinary) -> list[Seen]:
    place, directory = f"{side.kept}:/copied", f"{side.engine.space}/{side.name}"
    seen = [
        side.see("cp", "/etc/resolv.conf", place),
        side.see("exec", side.kept, "/bin/sh", "-c", "cat /copied"),
        side.see("cp", place, directory),
    ]
    assert side.engine.run("cat", directory).stdout == seen[1].out != ""
    return seen


CHECKS: dict[str, Callable[[Ordinary], Any]] = {
    "run": run,
    "exit-code": exit_code,
    "user": user,
    "env": env,
    "stdin": stdin,
    "volume": volume,
    "read-only": read_only,
    "memory": memory,
    "pids": pids,
    "hostname": hostname,
    "caps": caps,
    "detached": detached,
    "ps": ps,
    "logs": logs,
    "exec": exec_,
    "top": top,
    "stats": stats,
    "pause": pause,
    "update": update,
    "stop": stop,
    "start": start,
    "restart": restart,
    "kill": kill,
    "wait": wait,
    "rm": rm,
    "workdir": workdir,
    "entrypoint": entrypoint,
    "tmpfs": tmpfs,
    "tty": tty,
    "cp": cp,
}
"""30 checks, each its own test."""
