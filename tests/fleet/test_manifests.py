"""The manifests for Kubernetes fit together, and name the versions that Tilewright is tested with."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.pages import DOCS, ROOT

yaml = pytest.importorskip("yaml", reason="needs PyYAML, which ray brings along")


def read(name: str) -> dict[str, Any]:
    found = yaml.safe_load((DOCS / "how-to" / "kuberay" / name).read_text())
    assert isinstance(found, dict)
    return found


def test_pods_have_whole_cores_for_themselves() -> None:
    spec = read("cluster.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    (workers,) = spec["workerGroupSpecs"]
    assert workers["rayStartParams"]["num-cpus"] == container["resources"]["limits"]["cpu"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_job_speaks_to_the_cluster_with_its_token() -> None:
    cluster, job = read("cluster.yaml"), read("tune.yaml")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = cluster["metadata"]["name"]
    assert f"--fleet=ray://{name}-head-svc:10001" in container["args"]
    environment = {each["name"]: each for each in container["env"]}
    assert environment["RAY_AUTH_MODE"]["value"] == cluster["spec"]["authOptions"]["mode"]
    assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    assert pod["nodeSelector"] == workers["template"]["spec"]["nodeSelector"]  # of the same kind


def test_the_version_of_ray_is_the_tested_one() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert read("cluster.yaml")["spec"]["rayVersion"] == pinned
