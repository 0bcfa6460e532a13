# SPDX-License-Identifier: Apache-2.0
"""What `urunc metrics` prints, as Prometheus's own parser reads it."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse

from urunc import config, errors, logs
from urunc.cli import metrics
from urunc.errors import UsageError
from urunc.metrics import containers, failures, starts
from urunc.metrics.exposition import BUCKETS_S, Family, counted, text

MS = 1_000_000
PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent


def values(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) → value of each sample of a page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(page)
        for sample in family.samples
    }


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_any_label_and_value(label: str, value: float) -> None:
    family = Family("a_family", "gauge", 'of "quotes", \\ and\nlines')
    family.add(value, name=label)
    ((_, labels), found), *rest = values(text([family])).items()
    assert not rest
    assert dict(labels) == {"name": label.encode("utf-8", "replace").decode()}
    assert found == pytest.approx(value, abs=1e-8)


@given(st.lists(st.floats(min_value=0, max_value=20), max_size=20))
def test_a_histogram(observed: list[float]) -> None:
    family = Family("took_seconds", "histogram", "text")
    family.observe(observed, verb="create")
    found = values(text([family]))
    by = (("verb", "create"),)
    assert found["took_seconds_count", by] == len(observed)
    assert found["took_seconds_sum", by] == pytest.approx(sum(observed), abs=1e-6)
    buckets = [
        found["took_seconds_bucket", (("le", str(float(bound))), *by)]
        if ("took_seconds_bucket", (("le", str(float(bound))), *by)) in found
        else found["took_seconds_bucket", (("le", f"{bound:g}"), *by)]
        for bound in BUCKETS_S
    ]
    assert buckets == sorted(buckets)
    assert all(
        count == sum(value <= bound for value in observed)
        for count, bound in zip(buckets, BUCKETS_S, strict=True)
    )
    assert found["took_seconds_bucket", (("le", "+Inf"), *by)] == len(observed)


def test_nothing_is_no_family() -> None:
    assert text([Family("a", "gauge", "b"), counted(Family("c", "counter", "d"), {}, "kind")]) == ""


def stamps(container: str, by: str, *events: tuple[int, float]) -> list[str]:
    """Lines of the file of timestamps: (number, milliseconds)."""
    door = {"by": by} if by else {}
    return [
        json.dumps({"containerID": container, "timestampID": f"TS{number:02}",
                    "timestampName": "", "timestampNS": int(ms * MS), **door})
        for number, ms in events
    ]  # fmt: skip


def test_starts(tmp_path: pathlib.Path) -> None:
    """An id that is used again is another start; the engine's time between create and start is no
    phase; a create without a start counts as such."""
    file = tmp_path / "stamps"
    lines = [
        *stamps("a", "", (0, 100), (1, 103), (10, 120)),
        *stamps("a", "door", (11, 500), (13, 501)),
        *stamps("a", "", (18, 502)),
        "no timestamp",
        *stamps("b", "", (0, 200), (10, 240)),
        *stamps("a", "", (0, 900), (10, 960), (11, 961), (18, 969)),
        *stamps("c", "", (77, 10)),
    ]
    file.write_text("\n".join(lines))
    found = values(text(starts.families(str(file))))
    assert found["urunc_starts_total", (("by", "door"),)] == 1
    assert found["urunc_starts_total", (("by", "python"),)] == 1
    create, start = (("verb", "create"),), (("verb", "start"),)
    assert found["urunc_start_seconds_count", create] == 3
    assert found["urunc_start_seconds_sum", create] == pytest.approx(0.02 + 0.04 + 0.06)
    assert found["urunc_start_seconds_count", start] == 2
    assert found["urunc_start_seconds_sum", start] == pytest.approx(0.002 + 0.008)
    phase = "urunc_start_phase_seconds_sum"
    assert found[phase, (("phase", "spec read"),)] == pytest.approx(0.003)
    assert found[phase, (("phase", "create ends"),)] == pytest.approx(0.017 + 0.04 + 0.06)
    assert found[phase, (("phase", "execve of the monitor"),)] == pytest.approx(0.001 + 0.008)
    assert (phase, (("phase", "start invoked"),)) not in found


def test_failures(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As logs.py writes them, whatever a message has in it."""
    file = tmp_path / "log"
    monkeypatch.setattr(logs, "file", str(file))
    monkeypatch.setattr(logs, "container", 'x" kind=no')
    logs.error('create "a" kind=spec: no', errors.HostError("").kind)
    logs.error("level=warning", errors.NotFoundError("").kind)
    logs.error("old")
    logs.warn("some level=error text")
    logs.info("nothing")
    found = values(text(failures.families(str(file))))
    kinds = {labels[0][1] for name, labels in found if name == "urunc_failures_total"}
    assert kinds == {"host", "not_found", "other"}
    messages = "urunc_log_messages_total"
    assert found[messages, (("level", "error"),)] == 3
    assert found[messages, (("level", "warning"),)] == 1


def test_kinds() -> None:
    """Each error has one, a name by itself."""
    kinds = [
        cls("").kind for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.Error) and cls is not errors.Error
    ]  # fmt: skip
    assert len(set(kinds)) == len(kinds) > 10
    assert all(kind.replace("_", "").isalpha() and kind.islower() for kind in kinds)


def test_where_containers_may_be(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "ENGINES", (str(tmp_path / "e"), str(tmp_path / "none")))
    (tmp_path / "e/moby").mkdir(parents=True)
    (tmp_path / "e/file").touch()
    own = str(tmp_path / "e/moby")
    assert containers.roots(own) == [own]
    assert containers.roots(str(tmp_path)) == [str(tmp_path), own]
    assert values(text(containers.families([own]))) == {}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        (":9464", ("", 9464)),
        ("localhost:80", ("localhost", 80)),
        *((wrong, None) for wrong in ("", "9464", "::1:9464", "a:", "a:0", "a:65536", "a:x")),
    ],
)
def test_addresses(given: str, found: tuple[str, int] | None) -> None:
    if found:
        assert metrics._address(given) == found
        return
    with pytest.raises(UsageError, match="is not ADDRESS:PORT"):
        metrics._address(given)


def test_the_configuration_names_what_is_read() -> None:
    assert {"timestamps.file", "log.file"} <= set(config.SCHEMA)


PAGE = (PROJECT / "docs/metrics.md").read_text()
DASHBOARD = json.loads((PROJECT / "deploy/grafana/urunc.json").read_text())


def documented() -> dict[str, tuple[str, set[str]]]:
    """The metrics of docs/metrics.md: name → (kind, labels)."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*)\|", PAGE, re.MULTILINE)
    return {name: (kind, set(labels.replace(",", " ").split())) for name, kind, labels in rows}


def test_the_page_has_each_kind_of_failure() -> None:
    kinds = {cls("").kind for cls in vars(errors).values() if isinstance(cls, type)} - {""}
    assert {"internal"} | kinds <= set(re.findall(r"`(\w+)`", PAGE.partition("its kind:")[2]))


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    """With labels that they have; no two panels overlap."""
    known = documented()
    assert len(known) > 10
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["targets"]
        for target in panel["targets"]:
            for name in re.findall(r"urunc_\w+", target["expr"]):
                kind, labels = known.get(name) or known[re.sub("_(bucket|sum|count)$", "", name)]
                assert (kind == "histogram") == (name not in known)
                shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert shown <= labels
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not places & cells
        places |= cells
