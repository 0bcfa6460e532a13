# SPDX-License-Identifier: Apache-2.0
"""Pods with guests, as a kubelet makes them: containerd's CRI plugin with urunc's own shim."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import grpc
import pytest

from lib import busybox
from lib.engines import NEEDS_OF_PODS, SERVE, bare_probe, containerd_for_pods
from lib.images import archive
from lib.network_state import network_state
from lib.patience import until
from lib.places.containerd import Containerd
from lib.places.cri import Cri
from lib.pods import EXITED, IDLE, MIB, RUNNING, Pod, guest_and_sidecar, made_again
from lib.services import links
from lib.support import PARTS, TOOLS, assert_same, need
from urunc.installer.node import ASKS_ALL

SERVED = ("/bin/sh", "-c", "trap exit TERM; echo beside >/index.html; httpd -f -h / & wait")
NODE = 2
"""NamespaceMode of CRI."""


@pytest.fixture(scope="module", params=["containerd", "containerd2"])
def containerd(
    request: pytest.FixtureRequest, urunc_config: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containerd]:
    """containerd, the distribution's and the one of `make tools`, with a registry that has `pause`,
    an ordinary image `box`, and guests: the probe on Firecracker, Linux on QEMU."""
    need(*NEEDS_OF_PODS, "probe", request.param)
    programs = str(TOOLS) if request.param == "containerd2" else "/usr/bin"
    directory = tmp_path_factory.mktemp("images")
    box = busybox.files("sh", "echo", "sleep", "wget", "httpd", "stat", "cat")
    linux = {"vmlinuz": PARTS / "linux/vmlinuz", "initrd": PARTS / "linux/initrd.cpio"}
    images = [
        archive(directory / "box.tar", "box", box, ["/bin/sh"]),
        archive(directory / "probe.tar", "probe", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.serve"], unikernelType="unikraft", hypervisor="firecracker",
                binary="/probe"),
        archive(directory / "machine.tar", "machine", {"probe": PARTS / "probe.pvh"},
                ["app", "probe.hang"], unikernelType="unikraft", hypervisor="qemu",
                binary="/probe"),
    ]  # fmt: skip
    if (PARTS / "probe-bare.spt").exists():
        images.append(bare_probe(directory))
    if (PARTS / "linux/vmlinuz").exists():
        images.append(
            archive(directory / "linux.tar", "linux", linux, ["/init", "/bin/sh", "-c", SERVE],
                    unikernelType="linux", hypervisor="qemu", binary="/vmlinuz", initrd="/initrd")
        )  # fmt: skip
    with containerd_for_pods(urunc_config, directory, *images, programs=programs) as place:
        yield place


def is_up(cri: Cri) -> bool:
    """Whether the plugin answers: containerd does so earlier."""
    try:
        return bool(cri("ListPodSandbox").items)
    except grpc.RpcError:
        return False


def is_in_its_own_group(pod: Pod, container: str) -> None:
    """A control group for memory with the container's id, and only its monitor in it."""
    group = pod.groups(container)
    path = group.get("memory", group[""])
    assert path.endswith(f"/{pod.node.group}/{container}")
    directory = f"memory{path}" if "memory" in group else path
    processes = pod.node.run("cat", f"/sys/fs/cgroup/{directory}/cgroup.procs").stdout.split()
    assert str(pod.pid(container)) in processes


def test_probe(containerd: Containerd, cri: Cri) -> None:
    """A guest that has the pod's address, beside an ordinary container: from its image to the
    pod's end."""
    need("firecracker", "kvm")
    with Pod(containerd, cri).made() as pod:
        guest, sidecar = guest_and_sidecar(pod)
        is_in_its_own_group(pod, guest)
        pod.refuses_exec(guest)
        made_again(pod, guest)
        pod.stop(sidecar)
        pod.remove(sidecar)


def test_runcs_shim(containerd: Containerd, cri: Cri) -> None:
    """The same, where a handler is runc's shim with urunc's program (`BinaryName`)."""
    need("firecracker", "kvm")
    with Pod(containerd, cri, "runcs-shim").made() as pod:
        guest, sidecar = guest_and_sidecar(pod)
        is_in_its_own_group(pod, guest)
        with pytest.raises(grpc.RpcError) as error:
            cri("ExecSync", container_id=guest, cmd=["/bin/true"], timeout=10)
        assert "a unikernel has no processes" in error.value.details()
        made_again(pod, guest)
        pod.stop(sidecar)
        pod.remove(sidecar)


def test_linux(containerd: Containerd, cri: Cri) -> None:
    """A guest beside a sidecar: it is found at the pod's address and on the pod's localhost, by the
    sidecar, a kubelet's probes and port-forward, and has that address itself."""
    need("linux", "qemu")
    with Pod(containerd, cri).made() as pod:
        sidecar = pod.start("sidecar", "box", *IDLE)
        guest = pod.start("guest", "linux", memory_limit_in_bytes=320 * MIB)
        address = pod.address
        assert containerd.fetch(f"http://{address}/") == "guest\n"
        for host in (address, "127.0.0.1"):
            assert pod.run(sidecar, "/bin/wget", "-qO-", f"http://{host}/") == "guest\n"
        # as `kubectl debug` does, to a pod that runs
        debug = pod.start("debug", "box", *IDLE)
        assert pod.run(debug, "/bin/wget", "-qO-", "http://127.0.0.1/") == "guest\n"
        page = pod.forward(80, b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 " in page.splitlines()[0] and page.endswith(b"\r\n\r\nguest\n")
        is_in_its_own_group(pod, guest)
        assert pod.measured(guest).memory.working_set_bytes.value > 32 * MIB
        pod.refuses_exec(guest)
        pod.stop(guest)
        again = pod.start("guest", "linux", memory_limit_in_bytes=320 * MIB)
        pod.remove(guest)
        pod.stop(again)  # it boots still


def test_an_end_and_a_refusal(containerd: Containerd, cri: Cri) -> None:
    """A guest that ends by itself has its exit code; one that cannot be says why, and may be tried
    again in the same pod."""
    need("linux", "qemu", "firecracker", "kvm")
    with Pod(containerd, cri).made() as pod:
        ends = pod.start("ends", "linux", "/init", "/bin/sh", "-c", "echo bye; exit 3")
        small = pod.create("guest", "probe", memory_limit_in_bytes=2 * MIB)
        with pytest.raises(grpc.RpcError) as error:
            cri("StartContainer", container_id=small)
        assert "2097152 bytes are too few" in error.value.details()
        assert pod.status(small).state == EXITED
        until(lambda: pod.status(ends).state == EXITED, "the guest ends")
        assert pod.status(ends).exit_code == 2 * 3 + 1
        assert pod.status(ends).reason == "Error"
        pod.logged(ends, "bye")
        guest = pod.start("guest", "probe", memory_limit_in_bytes=64 * MIB)
        pod.logged(guest, '"serving"')
        assert containerd.udp(pod.address, 7, "hello") == "hello"


def test_a_namespace_with_many_services(containerd: Containerd, cri: Cri) -> None:
    """Their variables keep no guest from starting: it has those of the cluster's own API."""
    need("linux", "qemu", "firecracker", "kvm")
    variables = [dict(zip(("key", "value"), it.split("=", 1), strict=True)) for it in links(40)]
    given = {"envs": [{"key": "OWN", "value": "mine"}, *variables]}
    before = len(containerd.log())
    with Pod(containerd, cri, network="none").made() as pod:
        linux = pod.start("linux", "linux", "/init", "/bin/sh", "-c", "env", given=given)
        probe = pod.start("probe", "probe", "app", "probe.exit=5", given=given)
        until(lambda: pod.status(linux).state == EXITED, "the guest ends")
        said = "".join(f"{text}\n" for _, text in pod.log(linux))
        for line in (said, pod.report(probe)["cmdline"]):
            for variable in ("OWN=mine", "KUBERNETES_SERVICE_HOST=10.96.0.1"):
                assert variable in line
            assert "BACKEND_" not in line
    assert containerd.log()[before:].count("the service links of 40 services") == 2


def test_containerd_restarts(containerd: Containerd, cri: Cri) -> None:
    """A pod goes on without it, and is its own again when it is back: also its log, and what its
    containers are."""
    need("firecracker", "kvm")
    with Pod(containerd, cri).made() as pod:
        sidecar = pod.start("sidecar", "box", *IDLE)
        guest = pod.start("guest", "probe", "app", "probe.serve", "probe.beat=100")
        pod.logged(guest, '"beat"')
        address = pod.address
        containerd.run("pkill", "-KILL", "-x", "containerd")
        assert containerd.udp(address, 7, "alone") == "alone"
        until(lambda: is_up(cri), "containerd is back")
        assert pod.status(guest).state == RUNNING
        before = len(pod.log(guest))
        until(lambda: len(pod.log(guest)) > before, "its log goes on")
        pod.refuses_exec(guest)
        assert pod.run(sidecar, "/bin/echo", "still here") == "still here\n"
        pod.stop(guest)


def test_a_pod_s_shim_is_killed(containerd: Containerd, cri: Cri) -> None:
    """Every container of the pod has ended, and nothing of them is left: from containerd 2.4 on it
    joins a pod's containers to its shim without a `start` of their own."""
    need("solo5")
    with Pod(containerd, cri, network="none").made() as pod:
        sidecar = pod.start("sidecar", "box", *IDLE)
        guest = pod.start("guest", "spt", "probe.hang")
        pids = [pod.pid(sidecar), pod.pid(guest)]
        program = "/containerd-shim-urunc-v2 -namespace k8s.io"
        (shim,) = containerd.run("pgrep", "-f", program).stdout.split()
        containerd.run("kill", "-KILL", shim)
        ended = [functools.partial(pod.status, container) for container in (sidecar, guest)]
        until(lambda: all(status().state == EXITED for status in ended), "they have ended")
        for status in ended:
            assert status().exit_code in (137, 255)  # CRI's own for "unknown"
        paths = [f"/proc/{pid}" for pid in pids]
        until(lambda: not containerd.run("ls", "-d", *paths, check=False).stdout, "they are gone")


def test_totals_of_a_pod(containerd: Containerd, cri: Cri) -> None:
    """A guest without limits of its own has what is left of its pod's; one that comes when nothing
    is left has none, and an ordinary container never gets any."""
    need("firecracker", "kvm")

    def limits(container: str) -> tuple[int, ...]:
        return (
            int(pod.limit(container, "memory", "memory.limit_in_bytes", "memory.max")) // MIB,
            int(pod.limit(container, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0]),
        )

    totals = {"memory_limit_in_bytes": 256 * MIB, "cpu_quota": 250_000, "cpu_period": 100_000}
    with Pod(containerd, cri, network="none").made(**totals) as pod:
        pod.start("limited", "box", *IDLE, memory_limit_in_bytes=64 * MIB, cpu_quota=50_000)
        free = pod.start("free", "box", *IDLE)
        guest = pod.start("guest", "probe")
        assert limits(guest) == (192, 200_000)
        report = pod.report(guest)
        assert 160 * MIB < report["memory"] < 192 * MIB
        assert report["vcpus"] == 2
        late = pod.start("late", "probe")
        assert pod.report(late)["memory"] == 256 * MIB
        assert limits(late)[0] > 1 << 40
        assert limits(free)[0] > 1 << 40
        pod.stop(late)
        cri("UpdateContainerResources", container_id=guest,
            linux={"memory_limit_in_bytes": 224 * MIB})  # fmt: skip
        assert limits(guest) == (224, 200_000)
        pod.stop(guest)
        again = pod.start("guest", "probe")
        assert limits(again) == (192, 200_000)
        pod.stop(again)


def test_features_of_handlers(containerd: Containerd, cri: Cri) -> None:
    """What a kubelet asks before it lets a pod have a user namespace or mounts that are read-only
    all the way down: the same as runc's. Before 2.2.8 CRI asks only shims of runc's type, by
    whatever path."""
    found = {handler.name: handler.features for handler in cri("Status").runtime_handlers}
    if not found:
        pytest.skip("needs containerd 2: this one does not say")
    assert found["runc"].recursive_read_only_mounts
    assert found["runc"] == found["by-path"]
    if containerd.version >= ASKS_ALL:
        assert found["runc"] == found["urunc"]


def test_a_handler_by_the_shim_s_path(containerd: Containerd, cri: Cri) -> None:
    """runc's type and our shim's path: ours all the same, from containerd 1.7 on."""
    need("solo5")
    if not cri("Status").runtime_handlers:
        pytest.skip("needs containerd 2: 1.6 passes the path over")
    with Pod(containerd, cri, "by-path", network="none").made() as pod:
        sidecar = pod.start("sidecar", "box", *IDLE)
        guest = pod.start("guest", "spt", "probe.hang")
        pod.refuses_exec(guest)
        assert pod.run(sidecar, "/bin/echo", "in the sidecar") == "in the sidecar\n"
        pod.stop(guest)
        pod.remove(guest)
        pod.stop(sidecar)


def test_a_user_namespace(containerd: Containerd, cri: Cri) -> None:
    """hostUsers: false: the pause container, a sidecar and guests have ids of their own, and the
    images' files are those of their root, without a copy."""
    need("solo5", "containerd2")
    handlers = [each for each in cri("Status").runtime_handlers if each.features.user_namespaces]
    handler = max({each.name for each in handlers} & {"by-path", "urunc"}, default="")
    if not handler:
        pytest.skip("needs containerd 2 and a runc that maps ids of mounts (1.2)")
    ids = [{"host_id": 1_000_000, "container_id": 0, "length": 65536}]
    options = {"userns_options": {"mode": 0, "uids": ids, "gids": ids}}
    context = {"security_context": {"namespace_options": options}}
    pod = Pod(containerd, cri, handler)
    pod.config["linux"] |= context
    with pod.made():
        sidecar = pod.start("sidecar", "box", *IDLE, given={"linux": context})
        guest = pod.start("guest", "spt", "probe.hang", given={"linux": context})
        pod.logged(guest, '"cmdline"')
        shown = pod.run(sidecar, "/bin/stat", "-c", "%u %g", "/bin/sh")
        assert shown == "0 0\n"
        maps = pod.run(sidecar, "/bin/cat", "/proc/self/uid_map")
        assert maps.split() == ["0", "1000000", "65536"]
        for container in (sidecar, guest):
            status = containerd.run("cat", f"/proc/{pod.pid(container)}/status").stdout
            (uid,) = (line.split()[1] for line in status.splitlines() if line.startswith("Uid:"))
            assert 1_000_000 <= int(uid) < 1_065_536
        pod.stop(guest)
        pod.stop(sidecar)


def test_the_node_s_namespaces(containerd: Containerd, cri: Cri) -> None:
    """hostNetwork, hostPID and hostIPC: CRI names the pod's process, whose namespaces are the
    node's. The guest has no network; the node keeps its own, which an ordinary container uses; a
    pod beside them goes on."""
    need("qemu")
    context = {
        "security_context": {"namespace_options": dict.fromkeys(("network", "pid", "ipc"), NODE)}
    }
    of_node = Pod(containerd, cri)
    of_node.config["hostname"] = ""
    of_node.config["linux"] |= context
    with Pod(containerd, cri).made() as other, of_node.made() as pod:
        beside = other.start("beside", "box", *SERVED)
        until(
            lambda: "tentative" not in containerd.run("ip", "addr").stdout, "addresses are settled"
        )
        before = network_state(containerd.network)
        ordinary = pod.start("ordinary", "box", *IDLE, given={"linux": context})
        guest = pod.start("guest", "machine", given={"linux": context})
        pod.logged(guest, '"cmdline"')
        assert_same(before, network_state(containerd.network))
        assert pod.report(guest)["nics"] == []
        page = pod.run(ordinary, "/bin/wget", "-qO-", f"http://{other.address}/")
        assert page == "beside\n"
        names = [
            containerd.run("readlink", f"/proc/{pid}/ns/net").stdout
            for pid in (1, pod.pid(ordinary), pod.pid(guest))
        ]
        assert names[0] == names[1] == names[2]
        pod.stop(guest)
        pod.remove(guest)
        assert_same(before, network_state(containerd.network))
        pod.stop(ordinary)
        other.stop(beside)
