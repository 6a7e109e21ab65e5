"""The OpenAPI document is true: schemathesis asks all that it allows, and every answer is one that it names."""

import gzip
import json
import threading

import hypothesis
import pytest
import schemathesis
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joulebook.rows import Labels
from joulebook_collector.limits import MOST_BODY_BYTES, MOST_ROWS
from joulebook_collector.service.endpoints import ENDPOINTS
from joulebook_collector.service.metrics import Metrics
from joulebook_collector.testing import a_measurement, a_run
from schemathesis.generation import GenerationMode
from service import Service, resident_bytes, wire

SEEN = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("api") / "home", words=("--no-tokens",)) as service:
        rows = [a_run(labels=Labels(project="p", study="s")), a_measurement(), {"row": "nothing"}]
        assert service.post(rows)[0] == 200
        yield service


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_every_answer_is_one_that_the_document_names(service, endpoint, mode):
    schema = schemathesis.openapi.from_url(f"{service.url}/v1/openapi.json")
    operation = schema[endpoint.path][endpoint.method]
    named = {*operation.definition.raw["responses"]}

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def ask(case):
        response = case.call()
        assert response.status_code != 500, response.text
        assert str(response.status_code) in named | {"404", "405"}
        operation.validate_response(response) if str(response.status_code) in named else None

    try:
        ask()
    except hypothesis.errors.Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE
        assert not endpoint.parameters
        assert endpoint.request is None


def test_the_document_names_every_path_and_scope(service):
    _, found, _ = service.ask("GET", "/v1/openapi.json")
    assert found["openapi"] == "3.1.0"
    assert set(found["paths"]) == {endpoint.path for endpoint in ENDPOINTS}
    for endpoint in ENDPOINTS:
        told = found["paths"][endpoint.path][endpoint.method.lower()]
        assert ("security" in told) == bool(endpoint.scope)
        assert set(told["responses"]) >= {str(status) for status in endpoint.answers}


def test_the_docs_name_every_path_and_metric():
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs/reference/api.md").read_text()
    assert not [endpoint.path for endpoint in ENDPOINTS if endpoint.path not in page]
    assert not [name for name in Metrics().names() if name not in page]


def bring(service, body, **headers):
    return service.ask("POST", "/v1/batches", body, headers=headers)


def test_bodies_may_come_packed(service):
    for i, (name, pack) in enumerate({"gzip": gzip.compress, "zstd": zstandard.compress, "identity": bytes}.items()):
        body = pack(wire([a_run(f"packed-{name}")], agent_id=f"packed-{i}"))
        assert bring(service, body, **{"Content-Encoding": name})[:2] == (200, {"acknowledged": 1, "refused": []})


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x" * 10, {"Content-Encoding": "br"}, 415),
        (b"x" * 10, {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(bytes(MOST_BODY_BYTES + 1)), {"Content-Encoding": "gzip"}, 413),
        (zstandard.compress(bytes(MOST_BODY_BYTES + 1)), {"Content-Encoding": "zstd"}, 413),
        (wire([1] * (MOST_ROWS + 1)), {}, 413),
        (b"{}", {}, 400),
        (wire([1], version=9), {}, 400),
    ],
)
def test_what_cannot_be_taken_is_told_by_status(service, body, headers, status):
    found, values, _ = bring(service, body, **headers)
    assert found == status
    assert set(values) == {"error", "message"}


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(service):
    connection = service.connect()
    connection.putrequest("POST", "/v1/batches")
    connection.putheader("Content-Length", str(MOST_BODY_BYTES + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    connection = service.connect()
    connection.putrequest("POST", "/v1/batches")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()


def test_a_batch_that_comes_again_is_answered_with_its_refusals_again(service):
    rows = [a_measurement(), {"row": "measurement", "energy_millijoules": -1}, a_run()]
    first = service.post(rows, agent_id="twice")
    assert first[0] == 200
    assert [row["seq"] for row in first[1]["refused"]] == [2]
    assert service.post(rows, agent_id="twice") == first
    assert service.post(rows[:2], agent_id="twice")[1]["refused"] == first[1]["refused"]


def test_rows_that_differ_under_one_place_are_forked(service):
    assert service.post([a_run("a"), a_run("b"), a_run("c")], agent_id="forked")[0] == 200
    status, values = service.post([a_run("a"), a_run("x"), a_run("c")], agent_id="forked")
    assert (status, values["error"], values["seq"]) == (409, "forked", 2)


def test_the_same_as_of_gives_the_same_bytes(service):
    _, page, _ = service.ask("GET", "/v1/runs")
    path = f"/v1/runs/r1/energy?as_of={page['as_of_us']}"
    before = service.ask("GET", path)[1]
    later = a_measurement(100, 110, device_id="GPU-later")
    assert service.post([later], agent_id="later")[0] == 200
    assert service.ask("GET", path)[1] == before
    now = service.ask("GET", "/v1/runs/r1/energy")[1]
    assert now["energy_millijoules"] == before["energy_millijoules"] + 1000
    assert service.ask("GET", f"/v1/runs?as_of={2**62}")[0] == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
FIELDS = json.loads(wire([a_measurement(), a_run()]))["rows"]


@st.composite
def broken_rows(draw):
    """A row of the wire with some of its values replaced by anything."""
    row = dict(draw(st.sampled_from(FIELDS)))
    for name in draw(st.lists(st.sampled_from(sorted(row)), max_size=4)):
        row[name] = draw(JSON | st.sampled_from([10**40, -1, 1e300, "x" * 600, 0, 4_200_000_000_000_000]))
    return row


@given(rows=st.lists(broken_rows() | JSON, min_size=1, max_size=8), garbage=st.binary(max_size=200))
@settings(max_examples=50, deadline=None, suppress_health_check=SEEN, derandomize=True)
def test_whatever_comes_no_row_is_lost(service, rows, garbage):
    agent = f"fuzz-{next(COUNT)}"
    body = json.dumps({"version": 1, "agent_id": agent, "incarnation": "i", "first_seq": 1, "rows": rows}).encode()
    status, values, _ = bring(service, body)
    assert status == 200, values
    assert values["acknowledged"] == len(rows)
    with service.ledger() as ledger:
        held = ledger.query(HELD, {"agent": agent})
    assert [seq for (seq,) in held] == list(range(1, len(rows) + 1)), "each row is in the book or in quarantine, once"
    assert bring(service, body)[:2] == (200, values)
    assert bring(service, garbage)[0] == 400


COUNT = iter(range(1_000_000))
HELD = " union all ".join(
    f"select seq from {table} where agent_id = $agent"
    for table in ("measurement", "run", "mark", "reassignment", "quarantine")
) + " order by seq"  # fmt: skip


def test_garbage_grows_no_memory(service):
    def flood():
        connection = service.connect()
        for _ in range(25):
            service.ask("POST", "/v1/batches", BOMB, headers={"Content-Encoding": "gzip"}, connection=connection)
        connection.close()

    flood()
    before = resident_bytes(service.process.pid)
    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert resident_bytes(service.process.pid) - before < 32 << 20


BOMB = gzip.compress(b'{"version": 1, "rows": [' + b"[" * (7 << 20))
