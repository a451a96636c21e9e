"""The deliverer, from what is due to how it went, on a real store with a fake sender."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gevent
import openai
import pytest
import redis
from gevent.event import Event
from redis.exceptions import ConnectionError as RedisConnectionError

from jobs import queues
from jobs.errors import StoreUnavailable
from jobs.store import JobStore
from jobs.webhook_urls import Allowed, Target, parse
from jobs.webhooks import DeliveryStatus
from tests.processes import eventually
from tests.unit.making import (
    FIVE_DAYS,
    OWN_URL,
    SEALER,
    deliveries,
    endpoint,
    event,
    lease,
    make_due,
    members,
)
from worker.webhooks import deliverer as module
from worker.webhooks.deliverer import Deliverer
from worker.webhooks.policy import RetrySchedule
from worker.webhooks.sender import Answer
from worker.webhooks.slots import Slots

GOOD = Answer(204, None)
BROKEN = Answer(500, "http_status", "HTTP 500")
PENDING, SUCCEEDED, FAILED = DeliveryStatus


@dataclass
class FakeSender:
    """Answers from a list, the last entry for ever; holds the posts to some hosts until it is told to go on."""

    answers: list[Answer | Exception] = field(default_factory=lambda: [GOOD])
    hanging: dict[str, Event] = field(default_factory=dict)
    posts: list[tuple[Target, bytes, dict[str, str]]] = field(default_factory=list)
    at_once: int = 0
    most: int = 0

    def post(self, target: Target, body: bytes, headers: dict[str, str]) -> Answer:
        self.posts.append((target, body, headers))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if target.host in self.hanging:
                self.hanging[target.host].wait()
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.at_once -= 1

    def hosts(self) -> list[str]:
        return [target.host for target, _, _ in self.posts]


T = TypeVar("T")
Start = Callable[..., Deliverer]


@pytest.fixture
def start(store: JobStore) -> Iterator[Start]:
    """Starts deliverers, which end with the test."""
    running: list[tuple[Deliverer, gevent.Greenlet[..., None]]] = []

    def run(sender: FakeSender, *, slots: tuple[int, int] = (10, 5), **options: Any) -> Deliverer:
        known: dict[str, Any] = {"sealer": SEALER, "allowed": Allowed(), "schedule": RetrySchedule((300, 300))}
        known |= {"per_host": 5, "timeout": 15.0, "slow_after": 60.0, "disable_after": FIVE_DAYS}
        made = Deliverer(outbox=store.outbox, sender=sender, slots=Slots(*slots), **(known | options))
        running.append((made, gevent.spawn(made.run)))
        return made

    yield run
    for made, greenlet in running:
        made.finish(0)
        greenlet.join(timeout=5)
        assert greenlet.dead
        soon(lambda made=made: len(made), lambda found: found == 0)
        assert made.slots.free == (made.slots.size, made.slots.slow_size), "no slot is lost"


def soon(read: Callable[[], T], until: Callable[[T], object] = bool) -> T:
    """Let greenlets run until the reading is right."""

    def turn() -> T:
        gevent.sleep(0.001)
        return read()

    return eventually(turn, until)


def statuses(store: JobStore) -> list[DeliveryStatus]:
    """Of all deliveries, the newest first."""
    return [one.status for one in deliveries(store)]


def to_host(store: JobStore, host: str) -> None:
    """An event for one host."""
    event(store, webhook_url=f"https://{host}/in", webhook_host=host)


def test_what_is_due_is_sent(store: JobStore, start: Start) -> None:
    """An event is posted to its endpoint's URL, signed so that the SDK unwraps it, and its try is on record."""
    url = "https://hooks.example:8443/in?a=b"
    target = parse(url, Allowed())
    _, secret = store.webhooks.create("ann", name="n", url=url, target=target, event_types=["response.completed"])
    job_id = event(store)
    sender = FakeSender()
    start(sender)
    soon(lambda: statuses(store), lambda found: found == [SUCCEEDED])
    ((sent_to, body, headers),) = sender.posts
    assert sent_to == target
    with openai.OpenAI(api_key="x", webhook_secret=secret) as client:
        told: Any = client.webhooks.unwrap(body, headers)
    assert (told.type, told.data.id, told.id) == ("response.completed", job_id, headers["webhook-id"])
    (done,) = deliveries(store)
    ((tried),) = done.tries
    assert (tried["status_code"], tried["error"], tried["detail"]) == (204, None, None)
    assert tried["started_at"] == pytest.approx(time.time(), abs=60)
    assert tried["seconds"] >= 0


def test_each_try_is_the_same_message_at_another_time(store: JobStore, start: Start, redis_client: redis.Redis) -> None:
    """Tries share the webhook-id and the body, and each is signed with the time that it is sent at."""
    _, secret = store.webhooks.create(
        "ann",
        name="n",
        url="https://h.example/",
        target=parse("https://h.example/", Allowed()),
        event_types=["response.completed"],
    )
    event(store)
    now = [time.time() - 200]
    sender = FakeSender([BROKEN, Answer(None, "timeout", "no answer"), GOOD])
    deliverer = start(sender, clock=lambda: now[0])
    for tries in (1, 2):
        (waiting,) = soon(lambda: deliveries(store), lambda found, tries=tries: len(found[0].tries) == tries)
        assert waiting.status == PENDING
        assert waiting.due_at == pytest.approx(time.time() + 300, abs=70)
        now[0] += 100
        make_due(redis_client, queues.WEBHOOK_SCHEDULED, waiting.id)
        store.outbox.move_due()
        deliverer.wake()
    soon(lambda: statuses(store), lambda found: found == [SUCCEEDED])
    assert len({(headers["webhook-id"], body) for _, body, headers in sender.posts}) == 1
    times = [int(headers["webhook-timestamp"]) for _, _, headers in sender.posts]
    assert [later - times[0] for later in times] == [0, 100, 200]
    with openai.OpenAI(api_key="x", webhook_secret=secret) as client:
        for _, body, headers in sender.posts:
            client.webhooks.unwrap(body, headers)
    (done,) = deliveries(store)
    assert [tried["error"] for tried in done.tries] == ["http_status", "timeout", None]
    assert [tried["status_code"] for tried in done.tries] == [500, None, 204]


def test_both_secrets_sign_after_a_rotation(store: JobStore, start: Start) -> None:
    """While the old secret stays valid, a message carries a signature of each."""
    mine = endpoint(store)
    _, second = store.webhooks.rotate(mine.id, "ann", keep_old=True)
    event(store)
    sender = FakeSender()
    start(sender)
    soon(lambda: sender.posts)
    ((_, body, headers),) = sender.posts
    assert len(headers["webhook-signature"].split()) == 2
    with openai.OpenAI(api_key="x", webhook_secret=second) as client:
        client.webhooks.unwrap(body, headers)


def test_the_last_try_ends_it(store: JobStore, start: Start) -> None:
    """When no retry is left a delivery has failed."""
    endpoint(store)
    event(store)
    start(FakeSender([BROKEN]), schedule=RetrySchedule(()))
    soon(lambda: statuses(store), lambda found: found == [FAILED])


def test_gone_disables_the_endpoint(store: JobStore, start: Start) -> None:
    """A 410 ends the delivery and disables its endpoint."""
    mine = endpoint(store)
    event(store)
    start(FakeSender([Answer(410, "http_status", "HTTP 410")]))
    soon(lambda: statuses(store), lambda found: found == [FAILED])
    assert store.webhooks.get(mine.id, "ann").disabled_reason == "gone"


def test_a_test_is_tried_once(store: JobStore, start: Start) -> None:
    """A test event that fails is not sent again, and does not touch its endpoint."""
    mine = endpoint(store)
    store.outbox.post_test(mine.id, "ann", "response.completed")
    sender = FakeSender([Answer(410, "http_status", "HTTP 410")])
    start(sender)
    soon(lambda: statuses(store), lambda found: found == [FAILED])
    assert len(sender.posts) == 1
    assert store.webhooks.get(mine.id, "ann") == mine


@pytest.mark.parametrize(
    ("url", "host", "error"),
    [("https://10.0.0.1/", "10.0.0.1", "url_refused"), ("http://h.example/", "h.example", "url_refused")],
)
def test_a_url_that_is_no_longer_allowed_is_not_called(
    store: JobStore, start: Start, url: str, host: str, error: str
) -> None:
    """A URL is checked again when it is sent to: the settings may have changed since it was taken."""
    store.webhooks.ensure_owner_secret("ann")
    event(store, webhook_url=url, webhook_host=host)
    sender = FakeSender()
    start(sender)
    (waiting,) = soon(lambda: deliveries(store), lambda found: found[0].tries)
    assert (waiting.status, waiting.tries[0]["error"], waiting.tries[0]["status_code"]) == (PENDING, error, None)
    assert sender.posts == []


@pytest.mark.parametrize("trouble", ["no key", "another key", "no secret"])
def test_a_secret_that_cannot_be_read(store: JobStore, start: Start, redis_client: redis.Redis, trouble: str) -> None:
    """Without a secret nothing is sent unsigned; it is tried again later, and the reason is on record."""
    mine = endpoint(store)
    event(store)
    if trouble == "another key":
        redis_client.hset(queues.endpoint_key(mine.id), "secret", b"sealed by another")
    elif trouble == "no secret":
        redis_client.hdel(queues.endpoint_key(mine.id), "secret")
    sender = FakeSender()
    start(sender, **({"sealer": None} if trouble == "no key" else {}))
    (waiting,) = soon(lambda: deliveries(store), lambda found: found[0].tries)
    assert (waiting.status, waiting.tries[0]["error"]) == (PENDING, "secret_unreadable")
    assert waiting.tries[0]["detail"]
    assert sender.posts == []


def test_a_slip_of_ours_keeps_nobody_else_waiting(store: JobStore, start: Start) -> None:
    """An error that nobody foresaw is a failed try, and the others go on."""
    endpoint(store)
    event(store)
    sender = FakeSender([TypeError("unforeseen"), GOOD])
    deliverer = start(sender)
    soon(lambda: deliveries(store)[0].tries)
    event(store)
    deliverer.wake()
    newer, older = soon(lambda: deliveries(store), lambda found: found[0].ended)
    assert (newer.status, older.status) == (SUCCEEDED, PENDING)
    assert older.tries[0]["error"] == "internal_error"


def test_no_more_at_once_than_there_are_slots(store: JobStore, start: Start) -> None:
    """Deliveries beyond the slots wait until one is free, and then all arrive."""
    store.webhooks.ensure_owner_secret("ann")
    hosts = [f"h{number}.example" for number in range(9)]
    go = Event()
    for host in hosts:
        to_host(store, host)
    sender = FakeSender(hanging=dict.fromkeys(hosts, go))
    deliverer = start(sender, slots=(3, 2))
    soon(lambda: sender.at_once, lambda found: found == 3)
    deliverer.wake()
    gevent.sleep(0.02)
    assert (sender.at_once, len(deliverer)) == (3, 3)
    go.set()
    soon(lambda: set(statuses(store)), lambda found: found == {SUCCEEDED})
    assert sender.most == 3
    assert sorted(sender.hosts()) == hosts


def test_no_more_at_once_than_a_host_may_have(store: JobStore, start: Start) -> None:
    """Two workers together keep to the limit of a host."""
    store.webhooks.ensure_owner_secret("ann")
    for _ in range(6):
        event(store, **OWN_URL)
    go = Event()
    sender = FakeSender(hanging={"own.example": go})
    workers = [start(sender, per_host=2) for _ in range(2)]
    soon(lambda: sender.at_once, lambda found: found == 2)
    for worker in workers:
        worker.wake()
    gevent.sleep(0.02)
    assert sender.at_once == 2
    go.set()
    for worker in workers:
        soon(lambda worker=worker: (worker.wake(), set(statuses(store)))[1], lambda found: found == {SUCCEEDED})
    assert sender.most == 2


def test_a_host_that_hangs_makes_room(store: JobStore, start: Start, redis_client: redis.Redis) -> None:
    """Deliveries whose answer takes long move to the slow slots, so that another host's are sent at once."""
    store.webhooks.ensure_owner_secret("ann")
    go = Event()
    for _ in range(2):
        to_host(store, "slow.example")
    sender = FakeSender(hanging={"slow.example": go})
    deliverer = start(sender, slots=(2, 2), slow_after=0.05)
    soon(lambda: deliverer.slots.slow, lambda found: found == 2)
    assert deliverer.slots.fast == 0
    assert members(redis_client, queues.WEBHOOK_SLOW) == {"slow.example"}
    to_host(store, "slow.example")
    to_host(store, "quick.example")
    deliverer.wake()
    soon(lambda: statuses(store)[0], lambda found: found == SUCCEEDED)
    assert sender.hosts().count("slow.example") == 2, "the third waits for a slow slot, and takes no other"
    go.set()
    soon(lambda: set(statuses(store)), lambda found: found == {SUCCEEDED})


def test_slow_slots_are_not_overrun(store: JobStore, start: Start, redis_client: redis.Redis) -> None:
    """What turns out slow while the slow slots are taken is broken off, and waits for one of these: it keeps no other
    from its slot, and arrives in its turn under the same id. A try that was broken off is noted and does not count."""
    store.webhooks.ensure_owner_secret("ann")
    go, hosts = Event(), [f"h{number}.example" for number in range(6)]
    for host in hosts:
        to_host(store, host)
    sender = FakeSender(hanging=dict.fromkeys(hosts, go))
    deliverer = start(sender, slots=(3, 1), slow_after=0.02)
    soon(lambda: members(redis_client, queues.WEBHOOK_SLOW), lambda found: found == set(hosts))
    soon(lambda: (deliverer.slots.fast, deliverer.slots.slow, sender.at_once), lambda found: found == (0, 1, 1))
    assert sender.most <= 4
    soon(
        lambda: {tried["error"] for one in deliveries(store) for tried in one.tries},
        lambda found: found == {"crowded_out"},
    )
    to_host(store, "quick.example")
    deliverer.wake()
    soon(lambda: statuses(store)[0], lambda found: found == SUCCEEDED)
    go.set()
    soon(lambda: set(statuses(store)), lambda found: found == {SUCCEEDED})
    assert all(one.tries[-1]["error"] is None for one in deliveries(store))
    ids = {(target.host, headers["webhook-id"]) for target, _, headers in sender.posts}
    assert len(ids) == 7


def test_a_quick_answer_ends_slowness(store: JobStore, start: Start, redis_client: redis.Redis) -> None:
    """A host that counted as slow is served in a slow slot once, and after its quick answer among the others."""
    store.webhooks.ensure_owner_secret("ann")
    store.outbox.note_slow("own.example")
    event(store, **OWN_URL)
    deliverer = start(FakeSender(), slots=(0, 1))
    soon(lambda: statuses(store), lambda found: found == [SUCCEEDED])
    assert members(redis_client, queues.WEBHOOK_SLOW) == set()
    event(store, **OWN_URL)
    deliverer.wake()
    gevent.sleep(0.02)
    assert statuses(store)[0] == PENDING, "there is no slot for others here"


def test_a_closed_deliverer_takes_nothing(store: JobStore, start: Start) -> None:
    """After ``close`` what is on its way goes on, and what becomes due is for others."""
    store.webhooks.ensure_owner_secret("ann")
    go = Event()
    event(store, **OWN_URL)
    sender = FakeSender(hanging={"own.example": go})
    deliverer = start(sender)
    soon(lambda: sender.at_once)
    deliverer.close()
    event(store, **OWN_URL)
    deliverer.wake()
    gevent.sleep(0.02)
    assert len(sender.posts) == 1
    gevent.spawn_later(0.02, go.set)
    deliverer.finish(10)
    assert statuses(store) == [PENDING, SUCCEEDED]
    assert len(lease(store)) == 1


def test_what_does_not_end_in_time_is_given_back(store: JobStore, start: Start) -> None:
    """At the end of the grace period what hangs is given back, untried, and another sends it under the same id."""
    store.webhooks.ensure_owner_secret("ann")
    event(store, **OWN_URL)
    sender = FakeSender(hanging={"own.example": Event()})
    deliverer = start(sender)
    soon(lambda: sender.at_once)
    deliverer.finish(0)
    soon(lambda: (len(deliverer), sender.at_once), lambda found: found == (0, 0))
    (waiting,) = deliveries(store)
    assert (waiting.status, waiting.tries) == (PENDING, ())
    again = FakeSender()
    start(again)
    soon(lambda: statuses(store), lambda found: found == [SUCCEEDED])
    assert again.posts[0][2]["webhook-id"] == sender.posts[0][2]["webhook-id"]
    assert again.posts[0][1] == sender.posts[0][1]


def test_how_it_went_waits_for_redis(store: JobStore, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A success is written down when Redis answers again; the message is not sent twice."""
    endpoint(store)
    event(store)
    settle, troubles = store.outbox.settle, [1, 2]

    def sometimes(*args: Any, **options: Any) -> str:
        if troubles:
            troubles.pop()
            raise StoreUnavailable("away")
        return settle(*args, **options)

    monkeypatch.setattr(store.outbox, "settle", sometimes)
    monkeypatch.setattr(module.gevent, "sleep", lambda _: gevent.hub.sleep(0.001), raising=True)
    sender = FakeSender()
    start(sender)
    soon(lambda: statuses(store), lambda found: found == [SUCCEEDED])
    assert (len(sender.posts), troubles) == (1, [])


def test_redis_may_be_away_when_there_is_something_to_take(
    store: JobStore, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deliverer goes on after Redis was away, and after an error that nobody foresaw."""
    endpoint(store)
    event(store)
    take, troubles = store.outbox.lease, [StoreUnavailable("away"), TypeError("unforeseen")]

    def sometimes(**options: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return take(**options)

    monkeypatch.setattr(store.outbox, "lease", sometimes)
    deliverer = start(FakeSender())
    soon(lambda: (deliverer.wake(), statuses(store))[1], lambda found: found == [SUCCEEDED])
    assert troubles == []


def test_only_the_last_tries_are_kept(store: JobStore, start: Start, redis_client: redis.Redis) -> None:
    """However often a delivery is sent again, its record stays small."""
    endpoint(store)
    event(store)
    (waiting,) = deliveries(store)
    redis_client.hset(
        queues.delivery_key(waiting.id), "tries", "[" + ",".join(f'{{"n": {n}}}' for n in range(500)) + "]"
    )
    start(FakeSender())
    (done,) = soon(lambda: deliveries(store), lambda found: found[0].ended)
    assert 10 <= len(done.tries) <= 100
    assert done.tries[-1]["status_code"] == 204
    assert done.tries[-2] == {"n": 499}


def test_a_word_wakes_the_deliverer(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each word on the channel, and each new subscription, is a look at the outbox; a lost connection is made anew."""
    made = Deliverer(
        outbox=store.outbox,
        sender=FakeSender(),
        sealer=SEALER,
        allowed=Allowed(),
        schedule=RetrySchedule(()),
        slots=Slots(1, 1),
        per_host=1,
        timeout=1,
        slow_after=1,
        disable_after=1,
    )
    woken: list[str] = []
    subscriptions: list[Any] = [RedisConnectionError("lost"), TypeError("unforeseen"), RedisConnectionError("lost")]

    def words(_: Any, channel: str) -> Iterator[bytes | None]:
        assert channel == queues.WEBHOOKS_CHANNEL
        yield None
        yield b""
        raise subscriptions.pop()

    def pause(_: float) -> None:
        if not subscriptions:
            raise SystemExit

    monkeypatch.setattr(module, "listen", words)
    monkeypatch.setattr(Deliverer, "wake", lambda _: woken.append("look"))
    with pytest.raises(SystemExit):
        made.listen(None, sleep=pause)  # type: ignore[arg-type]
    assert len(woken) == 6
