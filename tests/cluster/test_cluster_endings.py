# SPDX-License-Identifier: Apache-2.0
"""How containers end: jobs and exit codes, signals and grace, too little memory, crash loops,
termination messages."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lib.in_cluster import URUNC, Namespace, Way, eventually, image
from lib.places.cluster import Object


def ending(way: Way, code: int, **more: Any) -> Object:
    """A container that ends with a code."""
    if not way.guest:
        return way.shell(f"exit {code}", **more)
    return {
        "name": "app",
        "image": image("ending"),
        "args": [f"probe.exit={code}"],
        "resources": {"limits": {"memory": "128Mi"}, "requests": {"cpu": "1m"}},
        **more,
    }


def job(way: Way, container: Object, **spec: Any) -> Object:
    """A Job `app`."""
    pod = way.pod("app", container, restartPolicy="Never")
    template = {"metadata": {"annotations": pod["metadata"]["annotations"]}, "spec": pod["spec"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "app"},
        "spec": {"template": template, **spec},
    }


def test_jobs(namespace: Namespace, way: Way) -> None:
    """One that ends with 0 is complete; one that ends otherwise is tried again until its backoff is
    at its limit, and its pods say with what."""
    namespace.make(job(way, ending(way, 0)))
    namespace.cluster.until(f"--namespace={namespace.name}", "--for=condition=complete", "job/app")
    namespace.kubectl("delete", "job", "app")
    namespace.make(job(way, ending(way, 1), backoffLimit=1))
    namespace.cluster.until(f"--namespace={namespace.name}", "--for=condition=failed", "job/app")
    pods = namespace.get("pods", "--selector=job-name=app")["items"]
    codes = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
             for pod in pods]  # fmt: skip
    assert codes == [1, 1]
    assert "BackoffLimitExceeded" in namespace.kubectl("describe", "job", "app")


def test_a_linux_guest_s_code(namespace: Namespace, way: Way) -> None:
    """A shell's exit code: by runc's shim, which hears of QEMU alone,
    a guest's code N is 2N+1."""
    namespace.make(way.pod("app", way.shell("exit 42"), restartPolicy="Never"))
    ended = namespace.ended("app")
    assert (ended["exitCode"], ended["reason"]) == (85 if way is URUNC else 42, "Error")


def test_the_end_of_the_log_is_the_message(namespace: Namespace, way: Way) -> None:
    """terminationMessagePolicy: FallbackToLogsOnError."""
    container = way.shell("echo the last words; exit 1")
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    namespace.make(way.pod("app", container, restartPolicy="Never"))
    assert "the last words" in namespace.ended("app")["message"]


def test_the_message_in_a_file(namespace: Namespace, way: Way) -> None:
    """What a container writes to its terminationMessagePath, before it ends with a code."""
    container = way.shell(
        "echo the reason >/ended/log; exit 3", terminationMessagePath="/ended/log"
    )
    namespace.make(way.pod("app", container, restartPolicy="Never"))
    assert namespace.ended("app")["message"] == "the reason\n"


def test_a_crash_loop(namespace: Namespace, way: Way) -> None:
    """One that ends again and again is waited for, longer each time, and says so."""
    namespace.make(way.pod("app", ending(way, 1)))
    said = namespace.waiting("app", "CrashLoopBackOff")
    assert "Back-off restarting failed container app" in namespace.waiting("app", "Back-off")
    assert "Last State:" in said
    assert namespace.container("app")["restartCount"] >= 1
    eventually(lambda: namespace.container("app")["restartCount"] >= 3, lambda: said)


def test_too_little_memory(namespace: Namespace, way: Way) -> None:
    """What takes more than there is is killed, and it is said why: but for a guest with runc's
    shim, which looks at the control group alone, where nothing has happened."""
    container = way.shell("exec tail /dev/zero", memory="224Mi" if way.guest else "32Mi")
    namespace.make(way.pod("app", container, restartPolicy="Never"))
    ended = namespace.ended("app")
    reason = "Error" if way is URUNC else "OOMKilled"
    assert (ended["exitCode"], ended["reason"]) == (137, reason)
    said = namespace.waiting("app", "Exit Code:    137")
    assert f"Reason:       {reason}\n" in said


def test_a_full_guest(namespace: Namespace, way: Way) -> None:
    """A guest that touches all of its memory stays within its limit, monitor included."""
    if not way.guest:
        pytest.skip("of guests alone")
    container = way.server()
    container["args"] = ["app", "probe.fill=all", "probe.hang"]
    namespace.make(way.pod("app", container, restartPolicy="Never"))
    namespace.logged("app", '"filled"')
    assert "running" in namespace.container("app")["state"]


def test_stop(namespace: Namespace, way: Way) -> None:
    """A pod that is deleted is asked to stop, and ends by itself within its grace."""
    namespace.make(way.pod("app", way.server()))
    namespace.ready("app")
    begin = time.monotonic()
    namespace.kubectl("delete", "pod", "app", timeout_s=60)
    # were it not heard, the pod would be there until its grace is over
    assert time.monotonic() - begin < 9, "it was killed when its grace was over"


def test_grace(namespace: Namespace, way: Way) -> None:
    """One that does not stop is killed when its grace is over."""
    container = way.server()
    if way.guest:
        container["args"] = container["args"][:-1]
    else:
        container["command"] = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    namespace.make(way.pod("app", container, terminationGracePeriodSeconds=4))
    eventually(lambda: namespace.container("app").get("started"), lambda: namespace.told("app"))
    begin = time.monotonic()
    namespace.kubectl("delete", "pod", "app", timeout_s=60)
    took_s = time.monotonic() - begin
    if not way.guest:
        assert took_s > 3.5
