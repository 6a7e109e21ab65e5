"""Law 3 from the agent's side: whatever is thinned, re-sent, forked or restarted, every joule leaves once."""

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from joulebook.outbox import Outbox
from joulebook.rows import Component, Mark, Measurement, Method, Policy, Reassignment, Share, ShareKind

S = 1_000_000_000
START_US = 490_000 * 3600 * 1_000_000
NOBODY = Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)
LATE = Share(ShareKind.RUN, 0, Policy.RESERVED, "late", "train")


def span(i, device, millijoules):
    at_us = START_US + 4_000_000 * i
    mine = (Share(ShareKind.UNATTRIBUTED, millijoules, Policy.RESERVED),)
    return Measurement(
        "m", "b", device, Component.CPU, at_us, at_us + 4_000_000, 4 * S * i, 4 * S * (i + 1), millijoules,
        "rapl", Method.COUNTER, 0.03, "k", 0.01, 1.0, "agent", mine,
    )  # fmt: skip


def spanned(row):
    if isinstance(row, Measurement):
        return (row.device_id, row.started_ns, row.ended_ns, row.energy_millijoules)
    return None


class Delivery(RuleBasedStateMachine):
    """An outbox, and the book of a ledger that takes its batches as the collector does."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.outbox = Outbox(self.folder / "o.sqlite", writer=True)
        self.i = 0
        self.written = defaultdict(int)
        self.marks = 0
        self.moved = []  # what each reassignment means; it is known by its millijoules
        self.recent = {}  # place of a row of this writer -> (device, span number)
        self.book = {}  # (incarnation, seq) -> row
        self.high = defaultdict(int)

    def teardown(self):
        if hasattr(self, "outbox"):
            self.outbox.close()
            shutil.rmtree(self.folder)

    @rule(count=st.sampled_from([1, 3, 40, 150]), writes=st.integers(1, 4), devices=st.integers(1, 3))
    def measure(self, count, writes, devices):
        """Some spans of every device, a mark after each, in several transactions."""
        for _ in range(writes):
            rows = []
            for _ in range(count):
                rows += [span(self.i, f"d{d}", 1000 + self.i + d) for d in range(devices)]
                rows.append(Mark("r", "m", "b", 1, "log", 1, 1, 1, self.marks))
                self.marks += 1
                self.i += 1
            for place, row in zip(self.outbox.write(final=rows), rows, strict=True):
                if isinstance(row, Measurement):
                    self.written[row.device_id] += row.energy_millijoules
                    self.recent[place] = row

    @rule(ago=st.integers(0, 600))
    def mark_late(self, ago):
        """A reassignment of one of the newest rows: the sampler names it by its place."""
        # Ten minutes of 4 s spans are what the sampler can still reassign.
        places = [place for place, row in self.recent.items() if row.ended_ns > 4 * S * self.i - 600 * S]
        if places:
            place = places[-1 - ago % len(places)]
            self.moved.append(self.recent[place])
            self.outbox.write(final=[Reassignment(self.outbox.incarnation, place, len(self.moved), NOBODY, LATE)])

    @rule(steps=st.sampled_from([1, 5, 40]))
    def thin(self, steps):
        for _ in range(steps):
            self.outbox.thin()

    @rule()
    def restart(self):
        self.outbox.close()
        self.outbox = Outbox(self.folder / "o.sqlite", writer=True)
        self.recent = {}

    @rule(
        batches=st.integers(1, 3),
        limit=st.sampled_from([1, 7, 60, 1000]),
        acknowledge=st.sampled_from(["all", "some", "none"]),
    )
    def deliver(self, batches, limit, acknowledge):
        shipper = Outbox(self.folder / "o.sqlite", writer=False)
        for _, batch in zip(range(batches), shipper.batches(limit), strict=False):
            self.take(batch)
            if acknowledge != "none":
                last = batch.last_seq if acknowledge == "all" else batch.first_seq
                shipper.acknowledge(batch.incarnation, last)
            if acknowledge == "some":
                break
        shipper.close()

    @rule()
    def fork(self):
        """The ledger says that another agent writes the newest incarnation: unacknowledged rows leave anew."""
        batch = next(self.outbox.batches(), None)
        if batch is None:
            return
        self.outbox.move(batch.incarnation)
        # What the ledger holds of the fork beyond what was acknowledged is the other agent's, not ours.
        for row in batch.rows:
            self.book.pop((batch.incarnation, row.seq), None)
        for key in [key for key in self.book if key[0] == batch.incarnation and key[1] >= batch.first_seq]:
            del self.book[key]

    def take(self, batch):
        assert len(batch.rows) >= 1
        for row in batch.rows:
            key = (batch.incarnation, row.seq)
            assert self.book.setdefault(key, row.body) == row.body, "a row that was sent has changed"
        # A ledger records a gap: there is none.
        assert batch.first_seq <= self.high[batch.incarnation] + 1
        self.high[batch.incarnation] = max(self.high[batch.incarnation], batch.last_seq)

    @invariant()
    def every_joule_is_in_the_book_or_waits(self):
        if not hasattr(self, "outbox"):
            return
        # Rows that were delivered and not acknowledged are in both: they count once.
        found = defaultdict(int)
        for row in {*map(spanned, self.book.values()), *map(spanned, self.outbox.bodies())} - {None}:
            found[row[0]] += row[-1]
        assert found == self.written
        assert self.outbox.depth() == len(list(self.outbox.bodies()))

    @rule()
    def drain(self):
        """Everything is delivered: each reassignment then names the row of the book that it meant."""
        for batch in self.outbox.batches():
            self.take(batch)
            self.outbox.acknowledge(batch.incarnation, batch.last_seq)
        assert self.outbox.depth() == 0
        moves = [row for row in self.book.values() if isinstance(row, Reassignment)]
        assert sorted(move.millijoules for move in moves) == list(range(1, len(self.moved) + 1))
        for move in moves:
            named, meant = self.book[move.incarnation, move.seq], self.moved[move.millijoules - 1]
            assert named == meant
        assert sorted(row.n for row in self.book.values() if isinstance(row, Mark)) == list(range(self.marks))


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
