# SPDX-License-Identifier: Apache-2.0
"""The manifests and the Helm chart: valid by Kubernetes' own schemas, and the same; what they say
of the installer, the installer takes.

With helm (`make tools`) the chart is rendered; without it, only its values' names are checked.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

import urunc
from urunc.installer.command import parser

kubernetes_validate = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")

DEPLOY = pathlib.Path(__file__).resolve().parent.parent.parent / "deploy"
CHART = DEPLOY / "helm/urunc"
PLAIN = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SAMPLES = sorted((DEPLOY / "kubernetes/samples").glob("*.yaml"))
VERSIONS = ("1.25", "1.30", "1.37")
OURS = ("install.yaml", "uninstall.yaml", "rbac.yaml", "runtimeclass.yaml")

Object = dict[str, Any]


def objects(text: str) -> list[Object]:
    return [item for item in yaml.safe_load_all(text) if item]


def named(items: list[Object]) -> dict[tuple[str, str], Object]:
    return {(item["kind"], item["metadata"]["name"]): item for item in items}


def check(item: Object, version: str) -> None:
    """Valid by the strict schema: a key that it does not know is an error."""
    if item["kind"] == "Kustomization":
        return
    if item["apiVersion"].startswith("serving.knative.dev/"):
        spec = item["spec"]["template"]["spec"]
        spec["containers"][0].setdefault("name", "user-container")
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", [*PLAIN, *SAMPLES], ids=lambda file: file.name)
def test_valid(file: pathlib.Path, version: str) -> None:
    items = objects(file.read_text())
    assert items
    for item in items:
        check(item, version)


def test_a_wrong_one_is_found() -> None:
    item = objects((DEPLOY / "kubernetes/runtimeclass.yaml").read_text())[0]
    item["overhead"]["podFixd"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(item, "1.37")


def test_kustomization_has_them_all() -> None:
    (kustomization,) = objects((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    assert {"kustomization.yaml", *kustomization["resources"]} == {file.name for file in PLAIN}


def rendered(*words: str) -> list[Object]:
    built = DEPLOY.parent / "build/tools/helm"
    helm = str(built) if built.exists() else shutil.which("helm")
    if not helm:
        pytest.skip("needs helm (make tools)")
    command = [helm, "template", "urunc", str(CHART), "--namespace", "urunc-system"]
    command += ["--kube-version", "1.37.0", *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return objects(answer.stdout)


def test_the_chart_renders_the_same() -> None:
    plain = [item for name in OURS for item in objects((DEPLOY / "kubernetes" / name).read_text())]
    assert named(rendered()) == named(plain)


def test_the_charts_values() -> None:
    values = (
        *("image.repository=registry.example.org/other", "image.tag=2", "prefix=/opt/urunc"),
        *("restart=none", "installArguments={--engine=crio}", "overhead.memory=64Mi"),
        "nodeExpressions[0].key=example.org/vm,nodeExpressions[0].operator=Exists",
        *("tolerations=null", "resources.limits.memory=1Gi"),
    )
    items = rendered(*(word for value in values for word in ("--set", value)))
    for item in items:
        check(item, "1.37")
    found = named(items)
    spec = found["DaemonSet", "urunc-installer"]["spec"]["template"]["spec"]
    arguments = spec["initContainers"][0]["args"]
    assert {"--prefix=/opt/urunc", "--restart=none", "--engine=crio"} <= set(arguments)
    assert spec["initContainers"][0]["image"] == "registry.example.org/other:2"
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert len(terms["nodeSelectorTerms"][0]["matchExpressions"]) == 3
    assert "tolerations" not in spec
    overhead = found["RuntimeClass", "urunc"]["overhead"]
    assert overhead == {"podFixed": {"memory": "64Mi"}}


def test_the_chart_names_values_that_there_are() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    used = set()
    for file in (CHART / "templates").iterdir():
        used |= set(re.findall(r"\.Values\.([A-Za-z.]+)", file.read_text()))
    for path in used:
        found = values
        for name in path.split("."):
            assert name in found, path
            found = found[name]
    assert {path.partition(".")[0] for path in used} == set(values)


@pytest.mark.parametrize("name", ["install", "uninstall"])
def test_the_installer_takes_its_arguments(name: str) -> None:
    (item,) = objects((DEPLOY / f"kubernetes/{name}.yaml").read_text())
    spec = item["spec"]["template"]["spec"]
    for container in spec["initContainers"]:
        options = parser().parse_args(container["args"])
        assert options.host == container["volumeMounts"][0]["mountPath"]
    tokens = [
        container["name"]
        for container in (*spec["initContainers"], *spec["containers"])
        if any(mount["name"] == "token" for mount in container["volumeMounts"])
    ]
    assert tokens == ["label"]
    assert not spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"]


def test_the_version_is_urunc_s() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == urunc.__version__
    assert (
        f"urunc-installer:{urunc.__version__}" in (DEPLOY / "kubernetes/install.yaml").read_text()
    )
