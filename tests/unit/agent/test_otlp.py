"""Settings of the OTLP push, and what is said where its packages are missing."""

import subprocess
import sys

import pytest
from joulebook.errors import BadInput
from joulebook.otlp import OtlpSettings, metrics_data, otlp_settings
from snapshots import snapshot


def settings(endpoint, **more):
    return otlp_settings({"JOULEBOOK_OTLP_ENDPOINT": endpoint, **more})


def test_without_an_endpoint_nothing_is_pushed():
    assert otlp_settings({}) is None
    assert settings("") is None


@pytest.mark.parametrize("endpoint", ["http://h:4318", "http://h:4318/", "http://h:4318/v1/metrics"])
def test_the_path_is_added_unless_it_is_there(endpoint):
    assert settings(endpoint) == OtlpSettings("http://h:4318/v1/metrics", 60.0)


@pytest.mark.parametrize("endpoint", ["h:4318", "ftp://h", "http://", "grpc://h:4317"])
def test_an_endpoint_that_is_none_is_refused(endpoint):
    with pytest.raises(BadInput, match="no http or https"):
        settings(endpoint)


def test_credentials_in_the_endpoint_are_refused_and_not_repeated():
    with pytest.raises(BadInput) as caught:
        settings("https://user:s3cret@h")
    assert "s3cret" not in caught.value.lines("agent")


@pytest.mark.parametrize("seconds", ["0", "nan", "3601", "often"])
def test_an_interval_that_cannot_be_is_refused(seconds):
    with pytest.raises(BadInput, match="JOULEBOOK_OTLP_SECONDS"):
        settings("http://h", JOULEBOOK_OTLP_SECONDS=seconds)


def test_names_and_units_are_those_that_become_the_same_names_in_prometheus():
    made = snapshot()
    (resource,) = metrics_data(made, made.at_ns, 0).resource_metrics
    found = {metric.name: metric.unit for metric in resource.scope_metrics[0].metrics}
    assert found["joulebook_energy_joules"] == "J"
    assert found["joulebook_observed_seconds"] == "s"
    assert found["joulebook_outbox_bytes"] == "By"
    assert found["joulebook_build_info"] == ""
    assert not [name for name in found if name.endswith("_total")]


def test_missing_packages_are_said_with_their_remedy():
    code = (
        "import sys\nsys.modules['opentelemetry'] = None\n"
        "from joulebook.errors import JoulebookError\n"
        "try:\n    import joulebook.otlp\nexcept JoulebookError as error:\n    print(error.lines('agent'))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "JOULEBOOK_OTLP_ENDPOINT needs the OpenTelemetry SDK" in told
    assert "try: pip install 'joulebook[otlp]'" in told
