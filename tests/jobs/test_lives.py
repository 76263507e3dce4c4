"""Lives of jobs in weeks in which clocks are changed, against a model: whatever happens to them is drawn by lot."""

from __future__ import annotations

import datetime
import random
from bisect import bisect_right
from dataclasses import dataclass, field

import pytest

from qinling_falcon.models import job
from tests.jobs.bench import MINUTE, OWNER, SECOND, Bench, due_time, end_all, executions, row, utc
from tests.jobs.cron_model import watched
from tests.models.factories import make_record

SPANS = {"spring": ("2027-03-10", "2027-04-12"), "autumn": ("2027-09-24", "2027-11-10")}
GRACE = 60 * SECOND
# Zones with gaps of half an hour and two hours, with changes at midnight, and offsets of quarters of an hour.
PATTERNS = (
    ("*/7 0-4 * * *", "Europe/Berlin"),
    ("* 1-2 * * SUN", "America/New_York"),
    ("*/10 1-2 * * *", "Australia/Lord_Howe"),
    ("30 2 L * *", "Europe/Dublin"),
    ("15,45 2 * * SUN#1,SUN#2", "Australia/Sydney"),
    ("0 0 1,L * *", "Asia/Kathmandu"),
    ("20 3 * * FRI#2,MON#4", "America/St_Johns"),
    ("45 2,3,9,15 * * *", "Pacific/Chatham"),
    ("5 0 13 * 5", "Asia/Tokyo"),
    ("*/15 0-3 * * *", "Antarctica/Troll"),
    ("30 0,1 * * *", "America/Havana"),
    ("0 0 * * *", "Asia/Beirut"),
)


@dataclass
class Life:
    """A job of the model. Without `times` it fires once.

    Attributes:
        has_open: whether its last execution has not ended.
    """

    id: str
    misfire: str
    overlap: str
    count: int | None
    next: datetime.datetime
    times: list[datetime.datetime] = field(default_factory=list)
    status: str = "running"
    has_open: bool = False

    def following(self, now: datetime.datetime) -> datetime.datetime:
        return self.times[bisect_right(self.times, now)]

    def is_tried_again_soon(self, now: datetime.datetime) -> bool:
        """Whether there is a try between now and its next time; there is one in every even second."""
        even = now.replace(microsecond=0) + (2 - now.second % 2) * SECOND
        return not self.times or even < self.following(now)

    def tick(self, now: datetime.datetime, *, has_room: bool) -> bool:
        """Whether the job fires."""
        if self.status != "running" or self.next > now:
            return False
        is_late = self.misfire == "skip" and now - self.next > GRACE
        is_blocked = self.overlap == "forbid" and self.has_open
        if self.misfire == "skip" and not (is_late or is_blocked or has_room) and self.is_tried_again_soon(now):
            return False
        if is_late or is_blocked or not has_room:
            if not self.times and self.misfire == "skip":
                self.status = "done"
            elif not self.times:
                self.next = now + MINUTE
            elif self.misfire == "run_once" and not is_blocked:
                self.next = min(self.following(now), now + MINUTE)
            else:
                self.next = self.following(now)
            return False
        self.has_open = True
        if self.count is not None:
            self.count -= 1
        if self.count == 0:
            self.status = "done"
        else:
            self.next = self.following(now)
        return True


class World:
    """Jobs on a bench, each beside its model."""

    def __init__(self, bench: Bench, function_id: str, seed: int, start: datetime.datetime, end: datetime.datetime):
        self.bench, self.function_id = bench, function_id
        self.draw = random.Random(seed)
        self.times = [list(watched(*one, start, end + 60 * 1440 * MINUTE)) for one in PATTERNS]
        bench.clock.now = start
        self.lives = [self._recurring(*both) for both in zip(PATTERNS, self.times, strict=True)]
        for _ in range(12):
            self.lives.append(self._once(start + self.draw.uniform(1, (end - start) / MINUTE) * MINUTE))

    def _recurring(self, pattern: tuple[str, str], times: list[datetime.datetime]) -> Life:
        misfire, overlap = self.draw.choice(("run_once", "skip")), self.draw.choice(("allow", "forbid"))
        count = self.draw.choice((None, None, None, self.draw.randrange(1, 60)))
        made = self.bench.job(
            self.function_id, pattern=pattern[0], timezone=pattern[1], count=count, misfire=misfire, overlap=overlap
        )
        return Life(made, misfire, overlap, count, times[0], times)

    def _once(self, at: datetime.datetime) -> Life:
        at, misfire = at.replace(microsecond=0), self.draw.choice(("run_once", "skip"))
        made = self.bench.job(self.function_id, first_execution_time=at, misfire=misfire)
        return Life(made, misfire, "allow", 1, at)

    def happen(self) -> None:
        """Something happens to a job, or to executions."""
        now, life = self.bench.clock.now, self.draw.choice(self.lives)
        event = self.draw.choice(("pause", "end", "end", "end", "end", "run", "time", "pattern"))
        if event == "end":
            end_all()
            for one in self.lives:
                one.has_open = False
        elif life.status == "done":
            return
        elif event == "run" and not (life.overlap == "forbid" and life.has_open):
            job.run(OWNER, life.id, make_record(self.function_id, status="running", sync=False, attempt=0, result=None,
                                                log=None, updated_at=None))  # fmt: skip
            life.has_open = True
        elif event == "pause" and life.status == "running":
            self._change(life, status="paused")
        elif life.status == "paused" and (life.times or life.next > now):
            self._change(life, status="running")
            if life.times:
                life.next = life.following(now)
        elif event == "time":
            life.next = now + self.draw.randrange(60, 7200) * SECOND
            self._change(life, next_execution_time=life.next)
        elif event == "pattern" and life.times:
            number = self.draw.randrange(len(PATTERNS))
            if self.times[number] is not life.times:
                life.times = self.times[number]
                life.next = life.following(now)
                self._change(life, pattern=PATTERNS[number][0], timezone=PATTERNS[number][1])

    def _change(self, life: Life, **changes: object) -> None:
        job.update(OWNER, life.id, changes, now=self.bench.clock.now)
        life.status = str(changes.get("status", life.status))

    def go_on(self) -> None:
        """Let time pass: to the next due time or a little more, or for hours."""
        now = self.bench.clock.now
        due = min(one.next for one in self.lives if one.status == "running")
        late = self.draw.choice((0, 0, 1, self.draw.randrange(60), self.draw.randrange(60)))
        if self.draw.random() < 0.06:
            late = self.draw.randrange(20 * 3600)
        self.bench.clock.now = max(now, due) + late * SECOND


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("span", "seed"), [("spring", 1), ("spring", 2), ("autumn", 3), ("autumn", 4)])
def test_jobs_live_as_the_model_says(bench: Bench, function_id: str, span: str, seed: int) -> None:
    start, end = (utc(text) for text in SPANS[span])
    world = World(bench, function_id, seed, start, end)
    expected: list[tuple[datetime.datetime, str, datetime.datetime]] = []
    while bench.clock.now < end:
        if world.draw.random() < 0.3:
            world.happen()
        world.go_on()
        now = bench.clock.now
        has_room = world.draw.random() > 0.05
        bench.quota.left = 1_000_000 if has_room else 0
        for life in world.lives:
            due = life.next
            if life.tick(now, has_room=has_room):
                expected.append((now, life.id, due))
        bench.run()

    found = [(one.created_at, one.job_id, due_time(one)) for one in executions() if one.job_id]
    assert sorted(found) == sorted(expected)
    assert len(found) > 150
    for life in world.lives:
        made = row(life.id)
        assert (made.status, made.count, made.next_execution_time) == (life.status, life.count, life.next), life
