"""The examples of deployment: what they name is there, and their arguments are the server's."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from unipic2_edge.runtime.serve.commands import KEY_VARIABLE, serve_arguments
from unipic2_edge.runtime.serve.endpoints import ENDPOINTS

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).parents[3] / "runtime" / "deploy"
PATHS = {endpoint.path for endpoint in ENDPOINTS}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    serve_arguments(parser)
    return parser.parse_args(["/bundle", "--host", "0.0.0.0", *arguments])


def test_kubernetes_asks_for_what_the_server_has() -> None:
    deployment, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in PATHS
    assert container["env"][0]["name"] == KEY_VARIABLE
    assert _parse(container["args"]).allow_host == ["*"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > 30  # the server drains for 30 s


def test_prometheus_finds_the_pods_and_has_the_key() -> None:
    pod = next(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))["spec"]["template"]
    monitor = yaml.safe_load((DEPLOY / "kubernetes-monitor.yaml").read_text())["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    container = pod["spec"]["containers"][0]
    assert monitor["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert endpoint["port"] == container["ports"][0]["name"] and endpoint["path"] in PATHS
    assert endpoint["authorization"]["credentials"] == container["env"][0]["valueFrom"]["secretKeyRef"]


def test_compose_gives_the_server_a_key() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    server = services["pictures"]
    assert KEY_VARIABLE in server["environment"]
    assert _parse(server["command"]).allow_host == ["pictures"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    scraped = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["pictures:8000"]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.jetson"])
def test_images_do_not_run_as_root_and_name_extras_that_exist(name: str) -> None:
    text = (DEPLOY / name).read_text()
    assert text.index("\nUSER server") < text.index("\nENTRYPOINT")
    project = (DEPLOY.parents[1] / "pyproject.toml").read_text()
    for extra in re.findall(r"(?:EXTRAS=|/src\[)([a-z,]+)", text):
        for one in extra.split(","):
            assert re.search(rf"^{one} = \[", project, re.MULTILINE)
