"""Posting batches that are ready: through outages, by several at once, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from stand_in import BROKEN, LOST, Say, StandIn, Trouble, port_of_nobody
from token_billing_client import BadUrl, Batch, Poster, Refused, Unavailable


def batches(many: int) -> list[Batch]:
    return [Batch(json.dumps([{"id": f"r-{nr}"}]).encode(), 1) for nr in range(many)]


@pytest.mark.parametrize("trouble", [Say(503), Say(500), Say(429), BROKEN])
def test_a_batch_without_an_answer_is_sent_again_as_it_was(trouble: Trouble) -> None:
    with (
        StandIn(trouble, trouble) as platform,
        Poster(platform.url, "tbg_key", concurrency=1) as poster,
    ):
        poster.post(batches(3))

    first, second, third = (batch.body for batch in batches(3))
    assert platform.bodies == [first, first, first, second, third]
    assert (poster.posted.accepted, poster.posted.retries) == (3, 2)
    assert str(poster.posted.units) == "4.500"


def test_a_batch_whose_answer_was_lost_counts_as_duplicates() -> None:
    with StandIn(LOST) as platform, Poster(platform.url, "tbg_key", concurrency=1) as poster:
        poster.post(batches(2))

    assert (poster.posted.accepted, poster.posted.duplicates) == (1, 1)
    assert len(platform.charged) == 2


def test_it_gives_up_where_nobody_answers() -> None:
    url = f"http://127.0.0.1:{port_of_nobody()}"
    with Poster(url, "tbg_key", patience=2) as poster, pytest.raises(Unavailable, match=url):
        poster.post(batches(3))

    assert poster.posted.records == 0
    assert poster.posted.retries


def test_every_batch_is_posted_once_by_several_posters() -> None:
    done: list[int] = []
    with (
        StandIn() as platform,
        Poster(platform.url, "tbg_key", concurrency=4, progress=done.append) as poster,
    ):
        poster.post(iter(batches(50)))
        poster.post(iter(batches(60)[50:]))

    assert sorted(platform.bodies) == sorted(batch.body for batch in batches(60))
    assert poster.posted.records == poster.posted.accepted == sum(done) == 60


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    with (
        StandIn(Say(status)) as platform,
        Poster(platform.url, "tbg_key", concurrency=1) as poster,
        pytest.raises(Refused, match=f"{status} some_cause: why") as refused,
    ):
        poster.post(batches(3))

    assert len(platform.asked) == 1
    assert (refused.value.status, refused.value.cause) == (status, "some_cause")


@pytest.mark.parametrize("body", [None, "hello", [1], {"accepted": 1}, {"accepted": None}])
def test_a_server_that_is_not_the_platform_is_told(body: object) -> None:
    with (
        StandIn(Say(200, body)) as platform,
        Poster(platform.url, "tbg_key", concurrency=1) as poster,
        pytest.raises(Refused, match="does not answer like the platform"),
    ):
        poster.post(batches(1))


def test_an_error_while_batches_are_made_ends_the_posting() -> None:
    def broken() -> Iterator[Batch]:
        yield from batches(2)
        raise LookupError("no more")

    with (
        StandIn() as platform,
        Poster(platform.url, "tbg_key") as poster,
        pytest.raises(LookupError, match="no more"),
    ):
        poster.post(broken())

    assert poster.posted.records == 2


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_a_url_that_is_none_is_told_at_once(url: str) -> None:
    with pytest.raises(BadUrl, match="is not a URL"):
        Poster(url, "tbg_key")
