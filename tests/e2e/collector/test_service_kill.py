"""kill -9 while agents deliver, copied and restored outboxes, a full disk: what was acknowledged is there, once."""

import http.client
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from joulebook_collector.conservation import verify
from joulebook_collector.testing import a_measurement
from service import Service, wire

ROWS = 40


@dataclass
class Agent:
    """Delivers as the wire says: one request at a time, again until it is acknowledged, in order.

    acknowledged: (incarnation, seq) -> the row.
    """

    service: Service
    name: str
    incarnation: str = "inc-0"
    seq: int = 1
    start: int = 0
    acknowledged: dict = field(default_factory=dict)
    forks: int = 0
    refused: int = 0
    attempts: int = 0
    chance: random.Random = field(default_factory=random.Random)

    def rows(self, count=ROWS):
        """The next rows: spans of the agent's own GPU."""
        begin = self.start
        self.start += count
        return [
            a_measurement(i, i + 1, 100 + i % 7, machine_id=self.name, device_id=f"GPU-{self.name}")
            for i in range(begin, begin + count)
        ]

    def deliver(self, rows):
        """Until acknowledged."""
        while rows:
            self.attempts += 1
            try:
                status, values = self.service.post(
                    rows, first=self.seq, agent_id=self.name, incarnation=self.incarnation
                )
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            if status == 200:
                for i, row in enumerate(rows):
                    self.acknowledged[self.incarnation, self.seq + i] = row
                self.refused += len(values["refused"])
                self.seq += len(rows)
                return
            if status == 409:
                before = values["seq"] - self.seq
                for i, row in enumerate(rows[:before]):
                    self.acknowledged[self.incarnation, self.seq + i] = row
                rows = rows[before:]
                self.forks += 1
                self.incarnation, self.seq = f"inc-{self.chance.getrandbits(64):x}", 1
                continue
            assert status in (429, 503), (status, values)
            time.sleep(0.05)


def check_book(service, agents):
    """Every acknowledged row is in the book or in quarantine, under its place, once, and as it was sent."""
    with service.ledger() as ledger:
        verify(ledger)
        stored = {}
        for row in ledger.measurements():
            stored.setdefault((row.device_id, row.started_ns), []).append(row)
        for table in ("measurement", "quarantine"):
            again = ledger.query(
                f"select agent_id, incarnation, seq, count(*) from {table} group by all having count(*) > 1"
            )
            assert again == []
        places = Counter(
            ledger.query(
                "select agent_id, incarnation, seq from measurement"
                " union all select agent_id, incarnation, seq from quarantine"
            )
        )
    assert set(places.values()) <= {1}
    for agent in agents:
        for (incarnation, seq), row in agent.acknowledged.items():
            assert places[agent.name, incarnation, seq] == 1
            assert [found.energy_millijoules for found in stored[row.device_id, row.started_ns]] == [
                row.energy_millijoules
            ]
    return places


def killed_while_delivering(tmp_path, kills, seed, agents=4):
    """Agents deliver while the collector is killed at random moments and started again; the agents."""
    chance = random.Random(seed)
    service = Service(tmp_path / f"home-{seed}", words=("--no-tokens",))
    ends = threading.Event()
    crew = [Agent(service, f"agent-{i}", chance=random.Random(seed + i)) for i in range(agents)]
    errors = []

    def work(agent):
        try:
            while not ends.is_set():
                agent.deliver(agent.rows(chance.randint(1, 80)))
        except BaseException as error:
            errors.append(error)
            raise

    with service:
        threads = [threading.Thread(target=work, args=(agent,)) for agent in crew]
        for thread in threads:
            thread.start()
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 0.6))
            service.kill()
            service.start()
        ends.set()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert service.stop() == 0
    return service, crew


@pytest.mark.slow
def test_every_acknowledged_row_outlives_kill_9_once(tmp_path):
    service, crew = killed_while_delivering(tmp_path, kills=4, seed=1)
    check_book(service, crew)
    assert all(agent.acknowledged for agent in crew)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_fifty_kills_lose_and_double_nothing(tmp_path):
    for seed in range(5):
        service, crew = killed_while_delivering(tmp_path, kills=12, seed=100 + seed)
        check_book(service, crew)


@pytest.mark.slow
def test_twenty_agents_one_restored_from_a_backup_and_two_with_a_copied_outbox(tmp_path):
    service = Service(tmp_path / "home", words=("--no-tokens",))
    crew = [Agent(service, f"agent-{i}", chance=random.Random(i)) for i in range(20)]
    restored, twin, copy = crew[0], crew[1], Agent(service, "agent-1", chance=random.Random(99))

    def work(agent):
        for _ in range(5):
            rows = agent.rows()
            agent.deliver(rows)
            if agent.chance.random() < 0.5:  # an answer that was lost: the same rows again
                status, _ = agent.service.post(
                    rows, first=agent.seq - len(rows), agent_id=agent.name, incarnation=agent.incarnation
                )
                assert status in (200, 429)

    with service:
        # Both copies hold rows 1 to 40 of one stream; then each goes on with readings of its own.
        twin.deliver(twin.rows())
        copy.seq, copy.start = twin.seq, 1000
        # This one's disk is set back: the rows after the backup are made again, and are others.
        restored.deliver(restored.rows())
        backup = (restored.seq, restored.start)
        restored.deliver(restored.rows())
        restored.seq, restored.start = backup[0], 2000
        threads = [threading.Thread(target=work, args=(agent,)) for agent in (*crew, copy)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert service.stop() == 0
    check_book(service, [*crew, copy])
    assert restored.forks >= 1
    assert twin.forks + copy.forks >= 1
    assert sum(agent.refused for agent in (*crew, copy)) == 0


@pytest.mark.slow
def test_a_full_disk_refuses_rows_and_keeps_what_was_acknowledged(tmp_path):
    # A limit on the size of files stands in for the disk: writing fails in the same places.
    service = Service(tmp_path / "home", words=("--no-tokens",))
    service.root.mkdir()
    agent = Agent(service, "agent-0")
    with service:
        service.stop()
        size = (service.root / "ledger.duckdb").stat().st_size
        service.start(before=["prlimit", f"--fsize={size + (1 << 20)}"])
        statuses = set()
        ends = time.monotonic() + 120
        while statuses <= {200} and time.monotonic() < ends:
            rows = agent.rows(400)
            try:
                status, _ = service.post(rows, first=agent.seq, agent_id=agent.name, incarnation=agent.incarnation)
            except (OSError, http.client.HTTPException):
                status = None
            statuses.add(status)
            if status == 200:
                for i, row in enumerate(rows):
                    agent.acknowledged[agent.incarnation, agent.seq + i] = row
                agent.seq += 400
            else:
                agent.start -= 400
        assert statuses - {200} <= {503, None}, statuses
        assert statuses != {200}
        if service.process.poll() is None:
            service.kill()
        else:
            assert service.process.returncode == 1
            service._ended()
        assert "cannot be written" in service.log() or 503 in statuses
        service.start()
        agent.deliver(agent.rows(400))
        assert service.stop() == 0
    check_book(service, [agent])


@pytest.mark.slow
def test_on_sigterm_what_waits_is_written_and_answered(tmp_path):
    service = Service(tmp_path / "home", words=("--no-tokens",))
    answers = []

    def post(i):
        agent = Agent(service, f"agent-{i}")
        try:
            answers.append(service.post(agent.rows(500), agent_id=agent.name)[0])
        except (OSError, http.client.HTTPException):
            answers.append(None)  # came too late to be let in

    with service:
        threads = [threading.Thread(target=post, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(0.15)
        assert service.stop() == 0
        for thread in threads:
            thread.join(30)
    with service.ledger() as ledger:
        ((stored,),) = ledger.query("select count(*) from measurement")
    assert stored == 500 * answers.count(200)
    assert set(answers) <= {200, 429, None}
    assert 200 in answers


def test_a_full_queue_says_when_to_come_again_and_memory_stays(tmp_path):
    service = Service(tmp_path / "home", words=("--no-tokens", "--queue-rows", "500"))
    seen = []

    def post(i):
        agent = Agent(service, f"agent-{i}")
        connection = service.connect()
        for _ in range(3):
            status, _, headers = service.ask(
                "POST", "/v1/batches", wire(agent.rows(400), agent_id=agent.name), connection=connection
            )
            seen.append((status, headers.get("retry-after")))
            if status == 200:
                break
        connection.close()

    with service:
        threads = [threading.Thread(target=post, args=(i,)) for i in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    statuses = Counter(status for status, _ in seen)
    assert statuses[429] > 0
    assert set(statuses) == {200, 429}
    assert all(1 <= int(after) <= 60 for status, after in seen if status == 429)
