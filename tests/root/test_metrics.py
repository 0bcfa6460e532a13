# SPDX-License-Identifier: Apache-2.0
"""`urunc metrics` of containers that there are."""

from __future__ import annotations

import pathlib
import re
import signal
import subprocess
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from lib.patience import patient, tried
from lib.support import PROJECT, Bundle, Urunc, nothing_left

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(page: str) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(page)
        for sample in family.samples
    }


def test_a_container_and_a_failure(urunc: Urunc, bundle: Bundle, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "urunc.log"
    urunc.config.write_text(f'{urunc.config.read_text()}[log]\nfile = "{log}"\n')
    with nothing_left(urunc.root):
        container = urunc.create(bundle, URUNC_TIMESTAMPS="1")
        container.start()
        assert urunc("create", "--bundle", str(tmp_path), urunc.new_id(), check=False).returncode
        file = tmp_path / "urunc.prom"
        assert urunc("metrics", "--output", str(file)).stdout == ""
        found = values(file.read_text())
        plan = container.plan()
        labels = {"guest": plan["guest"], "monitor": plan["monitor"]}
        counted = frozenset((labels | {"status": "running"}).items())
        assert found["urunc_containers", counted] == 1
        one = frozenset((labels | {"container": container.id}).items())
        assert found["urunc_guest_memory_bytes", one] == plan["memory_bytes"]
        assert found["urunc_container_memory_bytes", one] > 1 << 16
        assert found["urunc_container_cpu_seconds_total", one] > 0
        assert found["urunc_container_oom_kills_total", one] == 0
        assert found["urunc_failures_total", frozenset({("kind", "spec")})] == 1
        assert found["urunc_starts_total", frozenset({("by", "door")})] == 1
        assert found["urunc_start_seconds_count", frozenset({("verb", "create")})] == 1
        assert ("urunc_cache_images", frozenset()) in found
        rows = re.findall(
            r"^\| `(\w+)` \|", (PROJECT / "docs/metrics.md").read_text(), re.MULTILINE
        )
        assert {re.sub("_(bucket|sum|count)$", "", name) for name, _ in found} == set(rows)
        container.delete("--force")
    gone = values(urunc("metrics").stdout)
    assert not any(name.startswith("urunc_container") for name, _ in gone)
    assert gone["urunc_starts_total", frozenset({("by", "door")})] == 1


def test_served(urunc: Urunc) -> None:
    """Until it is asked to end; a second one at the address says so."""
    where = "127.0.0.1:19464"
    with subprocess.Popen(urunc.command("metrics", "--listen", where)) as server:
        try:

            def page(path: str = "/metrics") -> str:
                with urllib.request.urlopen(f"http://{where}{path}", timeout=patient(5)) as answer:
                    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                    return str(answer.read().decode())

            def attempt() -> str:
                try:
                    return page()
                except urllib.error.URLError:
                    return ""

            assert "urunc_build_info" in tried(attempt, 20)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                page("/other")
            second = urunc("metrics", "--listen", where, check=False)
            assert second.returncode == 1
            assert f"listen at '{where}': address already in use" in second.stderr
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(patient(10)) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--output", "/nowhere/x"), "write '/nowhere/x': no such file"),
        (("--output", "x", "--listen", ":1"), "option '--listen': not with --output"),
        (("--listen", "x"), "'x' is not ADDRESS:PORT"),
        (("more",), "more"),
    ],
)
def test_what_cannot_be(urunc: Urunc, words: tuple[str, ...], said: str) -> None:
    done = urunc("metrics", *words, check=False)
    assert done.returncode and said in done.stderr
