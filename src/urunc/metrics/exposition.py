# SPDX-License-Identifier: Apache-2.0
"""The text format of Prometheus, version 0.0.4 (its exposition formats): families of samples. By
hand, for the installed programs have Python's own library alone."""

from __future__ import annotations

from urunc.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of durations, in seconds: a verb takes 1 ms by the door, and a first create
hundreds."""


@record
class Sample:
    """A value of a family: what is behind the family's name, its labels, the number."""

    suffix: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Family:
    """A metric with all its samples."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        """`kind` is gauge, counter or histogram; `text` says what it is, and of which unit."""
        self.name = name
        self.kind = kind
        self.text = text
        self.samples: list[Sample] = []

    def add(self, value: float, **labels: str) -> None:
        """One more sample of a gauge or counter."""
        self._append("", value, labels)

    def observe(self, values: Sequence[float], **labels: str) -> None:
        """All observations of a histogram with these labels, in seconds."""
        for bound in BUCKETS_S:
            count = sum(value <= bound for value in values)
            self._append("_bucket", count, labels | {"le": _number(bound)})
        self._append("_bucket", len(values), labels | {"le": "+Inf"})
        self._append("_sum", sum(values), labels)
        self._append("_count", len(values), labels)

    def _append(self, suffix: str, value: float, labels: dict[str, str]) -> None:
        self.samples.append(Sample(suffix=suffix, labels=tuple(labels.items()), value=value))


def counted(family: Family, counts: Mapping[str, int], label: str) -> Family:
    """The family with a sample for each key, in their order."""
    for key in sorted(counts):
        family.add(counts[key], **{label: key})
    return family


def text(families: Iterable[Family]) -> str:
    """The page; families without samples are left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {_escaped(family.text, quote=False)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels)
            name = f"{family.name}{sample.suffix}" + (f"{{{labels}}}" if labels else "")
            lines.append(f"{name} {_number(sample.value)}")
    return "".join(f"{line}\n" for line in lines)


def _escaped(value: str, *, quote: bool = True) -> str:
    value = value.replace("\\", "\\\\").replace("\n", "\\n")
    value = value.encode("utf-8", "replace").decode()  # a file's name may be no UTF-8
    return value.replace('"', '\\"') if quote else value


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 9))
