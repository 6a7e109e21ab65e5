"""Waiting between attempts, and what a collector's address, token and answers may be."""

import gzip
import json
import socket
import ssl
from email.utils import formatdate
from time import time

import pytest
from joulebook.collector_client import CollectorClient, Unreachable, _retry_after, body_of, destination, read_token
from joulebook.errors import BadInput, JoulebookError
from joulebook.outbox import Outbox
from joulebook.rows import Mark, to_wire
from joulebook.settings import settings_from_environment
from joulebook.shipping import wait_seconds


@pytest.mark.parametrize(
    ("failures", "asked", "jitter", "seconds"),
    [
        (1, None, 1.0, 1.0),
        (1, None, 0.0, 0.0),
        (4, None, 1.0, 8.0),
        (4, None, 0.25, 2.0),
        (9, None, 1.0, 256.0),
        (10, None, 1.0, 300.0),
        (10_000, None, 1.0, 300.0),
        (1, 120.0, 0.5, 120.0),
        (20, 10.0, 0.5, 150.0),
        (1, 1e9, 0.5, 3600.0),
    ],
)
def test_waits_double_up_to_five_minutes_with_full_jitter_and_keep_what_is_asked(failures, asked, jitter, seconds):
    assert wait_seconds(failures, asked, jitter) == seconds


def test_a_pause_is_asked_for_in_seconds_or_by_a_date():
    assert _retry_after("120") == 120.0
    assert _retry_after(formatdate(time() + 60, usegmt=True)) == pytest.approx(60, abs=5)
    assert _retry_after(formatdate(time() - 60, usegmt=True)) == 0.0
    assert _retry_after("soon") is None
    assert _retry_after(None) is None


@pytest.mark.parametrize("url", ["https://c.example", "https://c.example:8443/joulebook/", "http://127.0.0.1:8080"])
def test_addresses_that_are_taken(url):
    assert destination(url, None, None).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["", "c.example", "ftp://c.example", "https://", "https://c.example:x", "https://c.example:99999",
     "https://me:secret@c.example", "https://me:secret@c.example:x", "https://me:secret/@c.example",
     "https://c.example/?a=1", "https://c.example/#a"],
)  # fmt: skip
def test_addresses_that_are_refused_and_not_repeated_with_a_password(url):
    with pytest.raises(BadInput) as told:
        destination(url, None, None)
    assert "secret" not in told.value.lines("agent")


def test_a_token_goes_to_no_other_machine_unencrypted():
    with pytest.raises(BadInput, match=r"the token would go to c\.example unencrypted"):
        destination("http://c.example", "/token", None)
    assert destination("http://localhost:1", "/token", None).token_file is not None
    assert destination("http://c.example", None, None).token_file is None


@pytest.mark.parametrize(
    ("text", "cause"), [("", "no token"), ("a b", "no token"), ("a\nb", "no token"), ("é", "cannot read")]
)
def test_a_file_without_a_token_is_told(tmp_path, text, cause):
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(JoulebookError, match=cause):
        read_token(path)


def test_a_missing_token_file_is_told(tmp_path):
    with pytest.raises(JoulebookError, match="No such file"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize("count", [1, 3, 1200])
def test_a_body_says_what_the_wire_page_says(tmp_path, count):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    rows = [Mark("r", "m", "b", 1, "log", 1, 1, 1, n, phase="a,[]") for n in range(count)]
    for i in range(0, count, 400):
        outbox.write(final=rows[i : i + 400])
    body, is_gzip = body_of(outbox.parcel(10_000))
    text = gzip.decompress(body) if is_gzip else body
    assert is_gzip == (len(text) > 1024)
    assert json.loads(text) == {
        "version": 1,
        "agent_id": outbox.agent_id,
        "incarnation": outbox.incarnation,
        "first_seq": 1,
        "rows": [to_wire(row) for row in rows],
    }
    outbox.close()


def test_what_is_said_before_tls_stands_is_no_answer(tmp_path, monkeypatch):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(final=[Mark("r", "m", "b", 1, "log", 1, 1, 1, 1)])
    answer = b'{"acknowledged": 1}'

    def reset(*_, **__):
        raise ConnectionResetError("the other end spoke, and reset the connection")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", reset)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = CollectorClient(destination(f"https://127.0.0.1:{server.getsockname()[1]}", None, None))
        connect = CollectorClient._connect

        def spoken_to(self):
            made = connect(self)
            made._create_connection = lambda *_: speak()
            return made

        def speak():
            near = socket.create_connection(server.getsockname(), timeout=5)
            far, _ = server.accept()
            far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            far.close()
            return near

        monkeypatch.setattr(CollectorClient, "_connect", spoken_to)
        with pytest.raises(Unreachable, match="reset the connection"):
            client.post(outbox.parcel())
    outbox.close()


def test_rows_of_a_collector_are_taken_into_no_ledger_beside_it(tmp_path):
    outbox = Outbox(tmp_path / "o.sqlite", writer=True)
    outbox.write(final=[Mark("r", "m", "b", 1, "log", 1, 1, 1, 1)])
    outbox.ship_to("https://c.example")
    with pytest.raises(JoulebookError, match=r"go to the collector https://c\.example"):
        next(outbox.batches())
    outbox.ship_to(None)
    assert next(outbox.batches()).first_seq == 1
    outbox.close()


def test_settings_name_the_collector():
    values = {
        "JOULEBOOK_COLLECTOR_URL": "https://c.example",
        "JOULEBOOK_COLLECTOR_TOKEN_FILE": "/t",
        "JOULEBOOK_COLLECTOR_CA_FILE": "/c",
    }
    settings = settings_from_environment(values)
    assert (settings.collector_url, settings.collector_token_file, settings.collector_ca_file) == tuple(values.values())
    assert settings_from_environment({}).collector_url == ""
