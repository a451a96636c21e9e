"""Deliveries are listed and sent again, by their owner alone."""

from __future__ import annotations

import httpx2

from tests.integration.driving import submit, unique
from tests.integration.webhooks.steps import EVENTS, deliveries, delivery, forget_endpoints, is_error
from tests.processes import eventually
from tests.receiving import Hook, Receiver, Reply, register


def test_a_delivery_is_sent_again(hook: Hook, client: httpx2.Client) -> None:
    """Redelivering sends the same body under the same ``webhook-id`` again, at once, whether it had arrived or not."""
    hook.receiver.answer(Reply(500), Reply(200))
    job_id = submit(client, prompt=unique(), model="sim")["id"]
    hook.told(job_id)
    waiting = eventually(lambda: delivery(client, hook, job_id, "pending"), lambda one: one["tries"])
    assert (waiting["error"], waiting["tries"][0]["status_code"]) == ("http_status", 500)
    # The next try would be in five seconds, more or less.
    assert 1 < waiting["next_try_at"] - waiting["tries"][0]["started_at"] < 20
    path = f"/v1/webhook_deliveries/{waiting['id']}/redeliver"
    for number in (2, 3):
        again = client.post(path)
        assert again.status_code == 200, again.text
        assert again.json()["id"] == waiting["id"]
        hook.told(job_id, times=number, within=3)
        done = delivery(client, hook, job_id, "succeeded")
        assert len(done["tries"]) == number
    assert done == client.get(f"/v1/webhook_deliveries/{waiting['id']}").json()
    assert (done["error"], done["next_try_at"]) == (None, None)
    assert [one["status_code"] for one in done["tries"]] == [500, 200, 200]
    assert all(set(one) == {"started_at", "seconds", "status_code", "error", "detail"} for one in done["tries"])

    client.post(f"/v1/webhook_endpoints/{hook.endpoint_id}", json={"enabled": False}).raise_for_status()
    assert is_error(client.post(path), 409, "not_deliverable")
    client.delete(f"/v1/webhook_endpoints/{hook.endpoint_id}").raise_for_status()
    assert is_error(client.post(path), 409, "not_deliverable")
    assert is_error(client.post(f"/v1/webhook_deliveries/whd_{'0' * 32}_job/redeliver"), 404, "not_found", "id")
    assert len(hook.receiver.requests()) == 3


def test_deliveries_are_listed_by_endpoint_and_status(client: httpx2.Client) -> None:
    """The list is newest first, in pages, and of one endpoint, of the jobs' own URLs, or of one status if asked."""
    with Receiver() as good, Receiver(Reply(404)) as bad:
        works, fails = register(client, good), register(client, bad)
        ids = [submit(client, prompt=unique(), model="sim", webhook_url=good.url("/own"))["id"] for _ in range(3)]
        for job_id in ids:
            delivery(client, works, job_id, "succeeded")
            delivery(client, Hook(good, "job", ""), job_id, "succeeded")
            eventually(lambda job_id=job_id: delivery(client, fails, job_id, "pending")["tries"])
        for hook, status in ((works, "succeeded"), (fails, "pending")):
            of_it = deliveries(client, endpoint=hook.endpoint_id)
            assert {one["data"]["id"] for one in of_it} == set(ids)
            assert {(one["status"], one["webhook_endpoint_id"]) for one in of_it} == {(status, hook.endpoint_id)}
            assert deliveries(client, endpoint=hook.endpoint_id, status=status) == of_it
            assert deliveries(client, endpoint=hook.endpoint_id, status="failed") == []
        newest = deliveries(client, limit=9)
        assert [one["created_at"] for one in newest] == sorted((one["created_at"] for one in newest), reverse=True)
        assert {one["webhook_endpoint_id"] for one in newest} == {works.endpoint_id, fails.endpoint_id, None}
        assert {one["webhook_endpoint_id"] for one in deliveries(client, endpoint="job", limit=3)} == {None}
        first = client.get("/v1/webhook_deliveries", params={"limit": 4}).json()
        assert (len(first["data"]), first["has_more"], first["last_id"]) == (4, True, first["data"][-1]["id"])
        rest = deliveries(client, limit=5, after=first["last_id"])
        assert [one["id"] for one in first["data"] + rest] == [one["id"] for one in newest]

        client.delete(f"/v1/webhook_endpoints/{fails.endpoint_id}").raise_for_status()
        (ended_, *_) = [one for one in newest if one["webhook_endpoint_id"] == fails.endpoint_id]
        failed = eventually(
            lambda: client.get(f"/v1/webhook_deliveries/{ended_['id']}").json(),
            lambda one: one["status"] == "failed",
            within=20,  # when it would have been tried again
        )
        assert (failed["error"], failed["next_try_at"], len(failed["tries"])) == ("endpoint_deleted", None, 1)
    for params in ({"status": "delivering"}, {"limit": 0}, {"limit": 101}):
        assert client.get("/v1/webhook_deliveries", params=params).status_code == 400, params
    for params in ({"endpoint": "nonsense"}, {"after": "nonsense"}, {"after": f"whd_{'0' * 32}_job"}):
        (name,) = params
        assert is_error(client.get("/v1/webhook_deliveries", params=params), 404, "not_found", name)


def test_anothers_endpoints_and_deliveries_are_not_there(
    alice: httpx2.Client, bob: httpx2.Client, receiver: Receiver
) -> None:
    """A key sees its owner's endpoints, deliveries and events only: another's is a 404, and stands in no list."""
    with Receiver() as bobs:
        hook, other = register(alice, receiver), register(bob, bobs)
        try:
            job_id = submit(alice, prompt=unique(), model="sim", webhook_url=receiver.url("/own"))["id"]
            mine = submit(bob, prompt=unique(), model="sim")["id"]
            delivered = delivery(alice, hook, job_id, "succeeded")["id"]
            other.told(mine)
            endpoint = f"/v1/webhook_endpoints/{hook.endpoint_id}"
            for method, path, body in [
                *(("GET", endpoint, None), ("DELETE", endpoint, None), ("POST", endpoint, {"name": "bob's"})),
                *(("POST", f"{endpoint}/rotate_secret", None), ("POST", f"{endpoint}/test", {"event_type": EVENTS[0]})),
                ("GET", f"/v1/webhook_endpoints?after={hook.endpoint_id}", None),
                ("GET", f"/v1/webhook_deliveries/{delivered}", None),
                ("POST", f"/v1/webhook_deliveries/{delivered}/redeliver", None),
                ("GET", f"/v1/webhook_deliveries?after={delivered}", None),
            ]:
                answer = bob.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (method, path)
            assert deliveries(bob, endpoint=hook.endpoint_id) == []
            assert [one["id"] for one in bob.get("/v1/webhook_endpoints").json()["data"]] == [other.endpoint_id]
            assert {one["data"]["id"] for one in deliveries(bob)} == {mine}
            assert alice.get(endpoint).json()["name"] == "a test's"
            assert {request.about for request in bobs.requests()} == {mine}
            assert {request.about for request in receiver.requests()} == {job_id}
        finally:
            forget_endpoints(alice)
            forget_endpoints(bob)
