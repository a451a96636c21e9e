"""The stream of a job in Redis: who may write it, what each attempt leaves, and how long it is kept."""

from __future__ import annotations

import pytest
import redis

from jobs import queues
from jobs.errors import NotFound
from jobs.model import RESPONSES, Claim
from jobs.store import JobStore
from jobs.streams import PAGE, Entry, Span
from tests.unit.making import DONE, claim, create, job, keys, lose_lease, running

CRASHED = "worker_crashed"


def entry(number: int, *, delta: bool = False) -> Entry:
    return Entry(number, "response.x", b'{"n":%d}' % number, delta)


def begun(store: JobStore, held: Claim) -> tuple[int, int]:
    """The numbers of an attempt that may begin."""
    numbers = store.streams.begin(held)
    assert not isinstance(numbers, str), numbers
    return numbers


def said(store: JobStore, held: Claim, *numbers: int, first: int = 0, deltas: bool = False) -> None:
    assert store.streams.append(held, first, [entry(number, delta=deltas) for number in numbers]) == "done"


def read(store: JobStore, job_id: str, after: int = -1) -> Span:
    return store.streams.read(job_id, "ann", after=after)


def numbers(store: JobStore, job_id: str, after: int = -1) -> list[int]:
    return [one.number for one in read(store, job_id, after).entries]


def test_what_is_said_can_be_read_from_anywhere(store: JobStore) -> None:
    """Events and pieces of text come in their order, from behind the number that the reader has."""
    held = running(store, stream=True)
    assert begun(store, held) == (0, 0)
    said(store, held, 0, 1)
    said(store, held, 2, 3, deltas=True)
    said(store, held, 4)
    assert numbers(store, held.job.id) == [0, 1, 2, 3, 4]
    assert [(one.number, one.delta) for one in read(store, held.job.id, 1).entries] == [
        (2, True),
        (3, True),
        (4, False),
    ]
    assert read(store, held.job.id, 4) == Span(job(store, held.job.id).status, 0, 5, None, [], more=False)
    assert read(store, held.job.id).entries[0] == entry(0)


def test_a_full_page_is_not_read_beyond(store: JobStore) -> None:
    """Of two Redis streams that are read page by page nothing is told out of its turn."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, *range(PAGE + 5), deltas=True)
    said(store, held, PAGE + 5)
    first = read(store, held.job.id)
    assert (first.more, [one.number for one in first.entries]) == (True, list(range(PAGE)))
    rest = read(store, held.job.id, PAGE - 1)
    assert (rest.more, [one.number for one in rest.entries]) == (False, list(range(PAGE, PAGE + 6)))


def test_another_owner_has_no_stream(store: JobStore) -> None:
    """A stream is read by its job's owner alone."""
    job_id = create(store, stream=True)
    with pytest.raises(NotFound):
        store.streams.read(job_id, "bob", after=-1)
    with pytest.raises(NotFound):
        read(store, "job_gone")


def test_the_same_again_changes_nothing(store: JobStore) -> None:
    """A replay after a lost reply appends nothing twice, and begins nothing anew."""
    held = running(store, stream=True)
    assert begun(store, held) == begun(store, held) == (0, 0)
    for _ in range(2):
        said(store, held, 0, 1)
    said(store, held, 1, 2)
    assert numbers(store, held.job.id) == [0, 1, 2]


def test_only_the_holder_of_the_claim_may_write(store: JobStore, redis_client: redis.Redis) -> None:
    """A worker whose job is another's, has ended or is gone neither begins nor appends."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0)
    lose_lease(redis_client, held.job.id)
    store.upkeep.recover_lost()
    # Nobody has claimed it since: it may go on, as its result would count.
    said(store, held, 1)
    other = claim(store, held.job.id, "other")
    assert (store.streams.append(held, 0, [entry(2)]), store.streams.begin(held)) == ("fenced", "fenced")
    begun(store, other)
    store.complete(other, DONE)
    assert (store.streams.append(other, 3, [entry(3)]), store.streams.begin(other)) == ("ended", "ended")
    store.delete(held.job.id, "ann")
    assert (store.streams.append(other, 3, [entry(3)]), store.streams.begin(other)) == ("gone", "gone")


def test_an_attempt_replaces_the_one_before_and_counts_on_above_it(store: JobStore, redis_client: redis.Redis) -> None:
    """The next attempt's stream holds nothing of the last, and one number between them is left for the news of it."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0, 1, 2)
    lose_lease(redis_client, held.job.id)
    store.upkeep.recover_lost()
    assert read(store, held.job.id).broke == (0, CRASHED)
    other = claim(store, held.job.id, "other")
    assert begun(store, other) == (4, 4)
    said(store, other, 4, first=4)
    span = read(store, held.job.id)
    assert (span.first, span.next, span.broke, [one.number for one in span.entries]) == (4, 5, (0, CRASHED), [4])
    assert store.streams.append(other, 0, [entry(5)]) == "fenced", "an attempt that is over says nothing more"


def test_an_attempt_that_said_nothing_leaves_no_trace(store: JobStore) -> None:
    """Numbers go on where they were if nobody can have read any."""
    held = running(store, stream=True)
    begun(store, held)
    store.retry(held, attempt=1, attempts=[{"error_code": "llm_unavailable"}], delay=0, keep_slot=True)
    assert begun(store, held) == (0, 0)
    assert read(store, held.job.id).broke is None


@pytest.mark.parametrize("keep", [True, False])
def test_followers_hear_that_an_attempt_failed(store: JobStore, keep: bool) -> None:
    """A retry notes which attempt came to nothing, and why, at once."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0)
    store.retry(held, attempt=1, attempts=[{"error_code": "llm_timeout"}], delay=60, keep_slot=keep)
    assert read(store, held.job.id).broke == (0, "llm_timeout")


def test_followers_hear_of_a_hand_back(store: JobStore) -> None:
    """A worker that stops says so."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0)
    store.hand_back(held)
    assert read(store, held.job.id).broke == (0, "worker_stopped")


def test_an_attempt_that_was_given_up_and_lives_is_whole_again(store: JobStore, redis_client: redis.Redis) -> None:
    """A worker that comes back before anybody has claimed its job goes on with its stream."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0)
    lose_lease(redis_client, held.job.id)
    store.upkeep.recover_lost()
    assert store.renew({held.job.id: held.claim_id}, lease_seconds=30) == []
    said(store, held, 1)
    span = read(store, held.job.id)
    assert (span.broke, [one.number for one in span.entries]) == (None, [0, 1])


def test_a_background_response_has_numbers_before_its_call(store: JobStore) -> None:
    """The first two are told of the queue by the API."""
    held = running(store, endpoint=RESPONSES, background=True, stream=True)
    assert begun(store, held) == (0, 2)


def test_the_end_keeps_the_events_and_lets_the_pieces_go(store: JobStore, redis_client: redis.Redis) -> None:
    """After the end the events live as long as the record, and the pieces of text for a minute, for slow readers."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0)
    said(store, held, 1, deltas=True)
    for key in (queues.stream_key(held.job.id), queues.deltas_key(held.job.id)):
        assert redis_client.pttl(key) == -1
    store.complete(held, DONE)
    record, events, deltas = (
        redis_client.pttl(key)
        for key in (queues.job_key(held.job.id), queues.stream_key(held.job.id), queues.deltas_key(held.job.id))
    )
    assert abs(record - events) < 100
    assert 50_000 < deltas <= 60_000
    assert read(store, held.job.id).status.terminal
    redis_client.pexpire(queues.deltas_key(held.job.id), 5)
    store.streams.linger(held.job.id, 60)
    assert redis_client.pttl(queues.deltas_key(held.job.id)) > 50_000


def test_lingering_gives_no_end_to_what_runs(store: JobStore, redis_client: redis.Redis) -> None:
    """Only what has an end gets a later one."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0, deltas=True)
    store.streams.linger(held.job.id, 60)
    assert redis_client.pttl(queues.deltas_key(held.job.id)) == -1


def test_a_deleted_job_leaves_no_stream(store: JobStore, redis_client: redis.Redis) -> None:
    """Deletion takes all of it."""
    held = running(store, stream=True)
    begun(store, held)
    said(store, held, 0)
    said(store, held, 1, deltas=True)
    store.delete(held.job.id, "ann")
    assert not [key for key in keys(redis_client) if held.job.id in key]


def test_followers_are_woken(store: JobStore, redis_client: redis.Redis) -> None:
    """Each step that changes what a follower is to hear is published on the job's channel."""
    held = running(store, stream=True)
    with redis_client.pubsub() as pubsub:
        pubsub.subscribe(queues.stream_key(held.job.id))
        begun(store, held)
        said(store, held, 0)
        store.retry(held, attempt=1, attempts=[{"error_code": "x"}], delay=0, keep_slot=True)
        begun(store, held)
        store.complete(held, DONE)
        store.delete(held.job.id, "ann")
        found = []
        while (message := pubsub.get_message(timeout=0.5)) is not None:
            found.append(message["type"])
    assert found == ["subscribe", *["message"] * 5]


def test_a_retried_job_streams_too(store: JobStore) -> None:
    """A new job made of one that failed is asked for in the same way."""
    job_id = create(store, endpoint=RESPONSES, background=True, stream=True)
    store.cancel(job_id, "ann")
    again = store.resubmit(job_id, "ann")
    assert again.made is not None
    assert again.made.stream
    assert job(store, again.job_id).stream
    assert begun(store, claim(store, again.job_id)) == (0, 2)
