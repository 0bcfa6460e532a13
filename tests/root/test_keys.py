# SPDX-License-Identifier: Apache-2.0
"""Each key of config.json does what its row in keys.py says, as `urunc plan` tells it of a Linux
guest; what it does in truth, the tests that the row names see."""

from __future__ import annotations

import copy
import json
import pathlib
import shutil
import subprocess
from typing import Any

import jsonschema
import pytest
import referencing
import referencing.jsonschema

from lib import key_samples, keys, rooted, schema
from lib.support import PARTS, PREFIX, Bundle, Urunc, need

FATES = {key: row.fate for row in keys.ROWS for key in keys.spread(row.keys)}


def of(fate: str) -> list[str]:
    return sorted(key for key, other in FATES.items() if other == fate)


@pytest.fixture
def bundle(urunc: Urunc, tmp_path: pathlib.Path) -> Bundle:
    """A Linux guest's, with nothing in it but what it takes."""
    need("qemu", "linux")
    rooted.configure(urunc, "ext4")
    return rooted.linux(tmp_path / "b", "true")


def document(bundle: Bundle, key: str) -> dict[str, Any]:
    """A configuration with the key: FULL, or a plain one with what the key needs."""
    found = copy.deepcopy(bundle.config if key in key_samples.APART else key_samples.FULL)
    keys.merge(found, key_samples.APART.get(key, {"annotations": bundle.config["annotations"]}))
    if "vm" in found:
        del found["annotations"][f"{PREFIX}binary"]
    text = json.dumps(found)
    for name in ("KERNEL", "INITRD"):
        shutil.copy(PARTS / "linux/vmlinuz", bundle.path / name)
        text = text.replace(f"/{name}", str(bundle.path / name))
    result: dict[str, Any] = json.loads(text)
    return result


def plan(urunc: Urunc, bundle: Bundle, changed: Any) -> subprocess.CompletedProcess[str]:
    bundle.config = changed
    return urunc("plan", "--bundle", str(bundle.write()), "--format", "json", check=False)


@pytest.mark.parametrize("key", sorted({*of("effect")} - key_samples.BY_TESTS_ALONE.keys()))
def test_an_effect(urunc: Urunc, bundle: Bundle, key: str) -> None:
    """Without the key, the plan is another one, or there is none."""
    changed = document(bundle, key)
    whole = plan(urunc, bundle, changed)
    assert whole.returncode == 0, whole.stderr
    assert keys.remove(changed, key)
    less = plan(urunc, bundle, changed)
    assert "internal error" not in less.stderr
    assert less.returncode or less.stdout != whole.stdout


@pytest.mark.parametrize("key", of("refused"))
def test_a_refusal(urunc: Urunc, bundle: Bundle, key: str) -> None:
    """The error says where it is."""
    keys.place(bundle.config, key, key_samples.SAMPLES[key])
    answer = plan(urunc, bundle, bundle.config)
    assert answer.returncode == 1
    parent = key.partition("[]")[0] if "[]" in key else key
    assert f"config.json: {parent}" in answer.stderr or _section(key) in answer.stderr


@pytest.mark.parametrize("key", [*of("warned"), *of("foreign")])
def test_a_warning(urunc: Urunc, bundle: Bundle, key: str) -> None:
    keys.place(bundle.config, key, key_samples.SAMPLES[key])
    answer = plan(urunc, bundle, bundle.config)
    assert answer.returncode == 0, answer.stderr
    warnings = json.loads(answer.stdout)["plan"]["warnings"]
    assert any(text.startswith(f"{key}: ") for text in warnings)


@pytest.fixture(scope="module")
def published() -> referencing.Registry[Any]:
    """The schema's files, by name."""
    directory = schema.download()
    if directory is None:
        pytest.skip("needs Go's modules")
    draft = referencing.jsonschema.DRAFT4
    return referencing.Registry().with_resources(
        (path.name, draft.create_resource(json.loads(path.read_text())))
        for path in directory.glob("*.json")
    )


def check(published: referencing.Registry[Any], name: str, value: Any) -> None:
    """Raises where a value is not as one of the schemas wants it."""
    jsonschema.Draft4Validator({"$ref": name}, registry=published).validate(value)


def test_the_samples_are_valid(published: referencing.Registry[Any]) -> None:
    check(published, "config-schema.json", key_samples.FULL)


def test_what_is_printed(
    urunc: Urunc, bundle: Bundle, published: referencing.Registry[Any]
) -> None:
    """`features` and `state` are as the specification's schemas have them."""
    check(published, "features-schema.json", json.loads(urunc("features").stdout))
    container = urunc.create(bundle)
    check(published, "state-schema.json", urunc.state(container.id))
    container.delete("--force")


def _section(key: str) -> str:
    """linux.intelRdt is refused as a whole."""
    return f"config.json: {key.rpartition('.')[0]}: "
