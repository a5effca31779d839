"""Requests of one moment share a run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from metering import combining
from metering.combining import Combiner


class Work:
    """What is run; it waits inside each run until it is let go."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, key: str, items: Sequence[int]) -> list[int]:
        self.runs.append(sorted(items))
        self.began.release()
        assert self.go.acquire(timeout=60)
        if 13 in items:
            raise ValueError("unlucky")
        return [-item for item in items]


@pytest.fixture
def work() -> Work:
    return Work()


def waiting(combiner: Combiner[str, int, int], count: int) -> None:
    """Until so many wait behind the run that is on."""
    while len(combiner._queues["k"].waiting) < count:
        threading.Event().wait(0.001)


def test_a_request_that_is_alone_is_run_alone_at_once(work: Work) -> None:
    work.go.release()

    assert Combiner(work).submit("k", 1) == -1
    assert work.runs == [[1]]


def test_who_comes_during_a_run_is_taken_together_by_the_next(work: Work) -> None:
    combiner = Combiner(work)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(combiner.submit, "k", 1)
        assert work.began.acquire(timeout=60)
        others = [pool.submit(combiner.submit, "k", item) for item in (2, 3, 4)]
        waiting(combiner, 3)
        work.go.release(2)
        answers = [each.result(60) for each in (first, *others)]

    assert answers == [-1, -2, -3, -4]
    assert work.runs == [[1], [2, 3, 4]]


def test_a_run_holds_back_until_those_of_the_last_have_come_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combining, "_PATIENCE_SECONDS", 60)
    combiner = Combiner(work)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(combiner.submit, "k", 1)
        assert work.began.acquire(timeout=60)
        second = pool.submit(combiner.submit, "k", 2)
        waiting(combiner, 1)
        work.go.release()  # two were there: the next run wants two
        assert first.result(60) == -1
        again = pool.submit(combiner.submit, "k", 3)
        assert work.began.acquire(timeout=60)
        work.go.release()

        assert (second.result(60), again.result(60)) == (-2, -3)
    assert work.runs == [[1], [2, 3]]


def test_who_does_not_come_again_is_not_waited_for_without_end(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combining, "_PATIENCE_SECONDS", 0.01)
    combiner = Combiner(work)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(combiner.submit, "k", 1)
        assert work.began.acquire(timeout=60)
        second = pool.submit(combiner.submit, "k", 2)
        waiting(combiner, 1)
        work.go.release(2)

        assert (first.result(60), second.result(60)) == (-1, -2)
    assert work.runs == [[1], [2]]


def test_an_item_that_fails_fails_nobody_else(work: Work) -> None:
    combiner = Combiner(work)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(combiner.submit, "k", 1)
        assert work.began.acquire(timeout=60)
        bad, good = (pool.submit(combiner.submit, "k", item) for item in (13, 2))
        waiting(combiner, 2)
        work.go.release(4)

        assert (first.result(60), good.result(60)) == (-1, -2)
        with pytest.raises(ValueError, match="unlucky"):
            bad.result(60)
