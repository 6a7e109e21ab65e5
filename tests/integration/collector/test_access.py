"""Who may do what at a real collector: everything else is refused, noted, and told nothing."""

import sqlite3
import subprocess
import time
from dataclasses import replace

import pytest
from conftest import JOULEBOOK
from joulebook.clock import utc_us
from joulebook.errors import BadInput, JoulebookError
from joulebook.rows import Labels, Policy, Reassignment, Share, ShareKind
from joulebook_collector.service.access import Access, Refused
from joulebook_collector.service.refusals import BURST, Refusals
from joulebook_collector.testing import a_measurement, a_run
from service import Service

READS = (
    "/v1/runs",
    "/v1/runs/vision",
    "/v1/runs/vision/energy",
    "/v1/quality",
    "/v1/quarantine",
    "/v1/quarantine/2/1",
    "/v1/audit",
)
SECRET = "A" * 43


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("access") / "home")
    with service:
        runs = [
            a_run(run_id=name, labels=Labels(project=project))
            for name, project in (("vision", "vision-1"), ("speech", "speech"), ("plain", ""))
        ]
        rows = [*runs, a_measurement(run_id="vision"), {"row": "nothing"}]
        status, _ = service.post(rows, token=service.token("filler", write=["*"]))
        assert status == 200
        yield service


def audited(service):
    with Access(service.root / "access.sqlite") as access:
        return [(line["actor"], line["act"], line["detail"]) for line in access.audited()]


def tell_nothing(values, *secrets):
    assert set(values) == {"error", "message"}
    for word in ("vision", "speech", "machine-a", *secrets):
        assert word not in values["message"]


def refused_tokens(service):
    """Texts of tokens that do not do, each with the reason that the log has."""
    with Access(service.root / "access.sqlite") as access:
        revoked, revoked_text = access.create("r", write=["*"], read=["*"], admin=True, actor="t")
        access.revoke(revoked.token_id, actor="t")
        expiring, expired_text = access.create("e", admin=True, read=["*"], expires_at_us=utc_us() + 200_000, actor="t")
        known, known_text = access.create("k", admin=True, read=["*"], actor="t")
    time.sleep(0.25)
    assert expiring.state(utc_us()) == "expired"
    return {
        None: "no token",
        "": "no token of ours",
        "nonsense": "no token of ours",
        f"jb_{'0' * 12}_{SECRET}": "unknown token",
        f"jb_{known.token_id}_{SECRET}": "wrong secret",
        known_text[:-1]: "wrong secret",
        known_text + "A": "wrong secret",
        known_text.replace("jb_", "jb-"): "no token of ours",
        revoked_text: "token revoked",
        expired_text: "token expired",
    }


def test_without_a_valid_token_everything_is_refused_alike_and_the_log_knows_why(service):
    answers = set()
    for text, reason in refused_tokens(service).items():
        headers = {} if text is None else {"Authorization": f"Bearer {text}"}
        before = len(audited(service))
        status, values, told = service.ask("GET", "/v1/runs", headers=headers)
        assert status == 401
        assert told["www-authenticate"] == "Bearer"
        tell_nothing(values)
        answers.add(values["message"])
        ((_, act, detail),) = audited(service)[before:]
        assert act == "GET /v1/runs"
        assert detail == reason
    assert len(answers) == 1, "the answer tells one token that does not do from another"


def test_a_write_without_a_token_stores_nothing(service):
    status, values = service.post([a_run("stolen")], agent_id="thief")
    assert status == 401
    tell_nothing(values)
    admin = service.token()
    assert service.ask("GET", "/v1/runs/stolen", token=admin)[0] == 404


@pytest.mark.parametrize("path", READS)
def test_a_token_that_writes_reads_nothing(service, path):
    status, values, _ = service.ask("GET", path, token=service.token("w", write=["*"]))
    assert status == 403
    tell_nothing(values)
    assert audited(service)[-1][1].startswith("GET /v1/")


@pytest.mark.parametrize("path", [path for path in READS if "runs" not in path])
def test_what_is_of_all_projects_needs_an_administrator(service, path):
    status, values, _ = service.ask("GET", path, token=service.token("r", read=["*"]))
    assert status == 403
    tell_nothing(values)


def test_tokens_that_read_bring_no_rows(service):
    for scopes in ({"read": ["*"]}, {"admin": True}):
        status, values = service.post([a_run("x")], token=service.token("r", **scopes), agent_id="other")
        assert status == 403
        tell_nothing(values)


@pytest.mark.parametrize(
    ("globs", "seen"),
    [(["vision-*"], {"vision"}), (["speech", "nothing"], {"speech"}), (["*"], {"vision", "speech", "plain"})],
)
def test_a_reader_sees_its_own_projects_only(service, globs, seen):
    token = service.token("reader", read=globs)
    _, page, _ = service.ask("GET", "/v1/runs", token=token)
    assert {run["run_id"] for run in page["runs"]} == seen
    for run in ("vision", "speech", "plain"):
        for path in (f"/v1/runs/{run}", f"/v1/runs/{run}/energy"):
            status, values, _ = service.ask("GET", path, token=token)
            nowhere = service.ask("GET", "/v1/runs/nowhere", token=token)
            if run in seen:
                assert status == 200
            else:
                assert (status, values) == nowhere[:2], "a hidden run is told from one that is not there"


def test_pages_hold_as_many_as_asked_for_and_none_twice(service):
    token = service.token("pages", read=["*"])
    found, after = [], ""
    while True:
        _, page, _ = service.ask("GET", f"/v1/runs?limit=1&after={after}", token=token)
        assert len(page["runs"]) == 1
        found += [run["run_id"] for run in page["runs"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert sorted(found) == ["plain", "speech", "vision"]


def test_rows_of_another_machine_are_refused_whole_and_nothing_is_stored(service):
    token = service.token("node", write=["machine-a", "rack-1-*"])
    mine, other = a_run("own", machine_id="machine-a"), a_run("foreign", machine_id="machine-b")
    place = {"agent_id": "agent-a", "incarnation": "inc-a"}
    status, values = service.post([mine, other], token=token, **place)
    assert (status, values["error"]) == (403, "token")
    tell_nothing(values, "machine-b")
    assert service.post([mine], token=token, **place)[0] == 200
    assert service.post([a_run("rack", machine_id="rack-1-7")], token=token, first=2, **place)[0] == 200
    assert service.ask("GET", "/v1/runs/foreign", token=service.token())[0] == 404


def test_a_reassignment_follows_the_machine_of_its_row(service):
    place = {"agent_id": "agent-m", "incarnation": "inc-m"}
    measured = a_measurement(machine_id="machine-m", device_id="GPU-m", run_millijoules=0)
    assert service.post([measured], token=service.token("m", write=["machine-m"]), **place)[0] == 200
    from_share = Share(ShareKind.UNATTRIBUTED, 500, Policy.RESERVED)
    move = Reassignment("inc-m", 1, 500, from_share, replace(from_share, kind=ShareKind.RUN, run_id="r1"))
    status, values = service.post([move], token=service.token("n", write=["machine-n"]), first=2, **place)
    assert (status, values["error"]) == (403, "token")
    assert service.post([move], token=service.token("m2", write=["machine-m"]), first=2, **place)[0] == 200


def test_revoked_is_revoked_at_once_on_a_connection_that_is_open(service):
    text = service.token("gone", read=["*"])
    connection = service.connect()
    assert service.ask("GET", "/v1/runs", token=text, connection=connection)[0] == 200
    words = ["token", "revoke", service.tokens["gone"]]
    subprocess.run([*JOULEBOOK, *words], env=service.environ, check=True, capture_output=True)
    assert service.ask("GET", "/v1/runs", token=text, connection=connection)[0] == 401
    connection.close()


def test_a_request_that_is_replayed_changes_nothing(service):
    token = service.token("again", write=["*"])
    place = {"agent_id": "agent-r", "incarnation": "inc-r"}
    first = service.post([a_run("replayed")], token=token, **place)
    _, before, _ = service.ask("GET", "/v1/quality", token=service.token())
    assert [service.post([a_run("replayed")], token=token, **place) for _ in range(3)] == [first] * 3
    _, after, _ = service.ask("GET", "/v1/quality", token=service.token())
    assert before == after


def test_a_rotated_token_lives_through_its_grace_only(tmp_path):
    with Access(tmp_path / "access.sqlite") as access:
        old, old_text = access.create("node", write=["a*"], actor="t")
        new, new_text = access.rotate(old.token_id, grace_us=60_000_000, actor="t")
        assert (new.name, new.write) == (old.name, old.write)
        assert access.check(f"Bearer {old_text}").token_id == old.token_id
        _, newest_text = access.rotate(new.token_id, grace_us=0, actor="t")
        with pytest.raises(Refused, match="expired"):
            access.check(f"Bearer {new_text}")
        assert access.check(f"bearer  {newest_text}").may_write("a7")
        with pytest.raises(BadInput, match="expired"):
            access.rotate(new.token_id, grace_us=0, actor="t")


def test_no_secret_is_in_the_file_or_the_log(tmp_path):
    path = tmp_path / "access.sqlite"
    with Access(path) as access:
        made, text = access.create("n", read=["*"], actor="t")
        access.revoke(made.token_id, actor="t")
    secret = text.split("_", 2)[2].encode()
    for file in tmp_path.iterdir():
        assert secret not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


def test_the_audit_log_is_only_appended_to(tmp_path):
    with Access(tmp_path / "access.sqlite") as access:
        access.create("n", read=["*"], actor="t")
        for statement in ("update audit set act = 'x'", "delete from audit"):
            with pytest.raises(sqlite3.IntegrityError, match="only appended"):
                access._db.execute(statement)
        assert [line["act"] for line in access.audited()] == ["token create"]


def test_a_flood_of_refusals_is_bounded_in_the_log_and_counted(tmp_path):
    with Access(tmp_path / "access.sqlite") as access:
        refusals = Refusals(access)
        for _ in range(BURST * 5):
            refusals.note("1.2.3.4", "GET /v1/runs", "no token")
        assert refusals.total == BURST * 5
        lines = access.audited()
        assert BURST <= len(lines) <= BURST + 30
        time.sleep(1.1)
        refusals.note("1.2.3.4", "GET /v1/runs", "no token")
        assert f"{BURST * 5 - len(lines)} others before it" in access.audited()[-1]["detail"]


def test_a_token_that_may_do_nothing_is_not_made(tmp_path):
    with Access(tmp_path / "access.sqlite") as access:
        with pytest.raises(BadInput, match="may do nothing"):
            access.create("n", actor="t")
        with pytest.raises(BadInput, match="expired already"):
            access.create("n", read=["*"], expires_at_us=1, actor="t")
        assert access.tokens() == []


def test_a_damaged_or_newer_file_is_said(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(JoulebookError, match="cannot open"):
        Access(tmp_path / "a.sqlite")
    Access(tmp_path / "b.sqlite").close()
    with sqlite3.connect(tmp_path / "b.sqlite") as db:
        db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(JoulebookError, match="is of version 99"):
        Access(tmp_path / "b.sqlite")
