"""Requests and tokens a minute: how often and how much a subscriber may ask, counted in Valkey.

A minute is the last 60 seconds, counted by the second: in no 60 seconds of the operator's clock are
there more than the limit. Both limits are checked and counted by one script. This is no ledger:
what Valkey forgets is a minute's counts, and where it does not answer the plan says what happens.
"""

from __future__ import annotations

import datetime as dt
import functools
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from subscriptions.policies import PlanPolicy

_PATIENCE_SECONDS = 0.2
# After a failure nobody waits again for so long.
_PAUSE_SECONDS = 1.0

# KEYS: a hash for requests, one for tokens; a field for each second. ARGV: now, and for each its
# limit (-1: none) and what is to be counted. Answers which limit refused (0: none) and in how many
# seconds it will not. What is larger than its limit passes where nothing else was counted.
_TAKE = """
local now = tonumber(ARGV[1])
for k = 1, 2 do
    local limit, cost = tonumber(ARGV[2 * k]), tonumber(ARGV[2 * k + 1])
    if limit >= 0 then
        local used, seconds = 0, {}
        local slots = redis.call('HGETALL', KEYS[k])
        for i = 1, #slots, 2 do
            local second = tonumber(slots[i])
            if second <= now - 60 then
                redis.call('HDEL', KEYS[k], slots[i])
            else
                used = used + tonumber(slots[i + 1])
                seconds[#seconds + 1] = {second, tonumber(slots[i + 1])}
            end
        end
        local over = used + math.min(cost, limit) - limit
        if over > 0 then
            table.sort(seconds, function(a, b) return a[1] < b[1] end)
            for _, slot in ipairs(seconds) do
                over = over - slot[2]
                if over <= 0 then return {k, slot[1] + 60 - now} end
            end
            return {k, 60}
        end
    end
end
for k = 1, 2 do
    if tonumber(ARGV[2 * k]) >= 0 then
        redis.call('HINCRBY', KEYS[k], ARGV[1], ARGV[2 * k + 1])
        redis.call('EXPIRE', KEYS[k], 120)
    end
end
return {0, 0}
"""
# What a second counted turns out to have been more or less; one that is forgotten stays so.
_CORRECT = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
    local counted = redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
    if counted < 0 then redis.call('HSET', KEYS[1], ARGV[1], 0) end
end
"""


class Ask(NamedTuple):
    """One request of a subscriber under a plan's limits, and the tokens it is taken to use."""

    subscriber_id: int
    policy: PlanPolicy
    tokens: int


class Refusal(NamedTuple):
    """Which limit is reached, `requests` or `tokens`, and in how many seconds it will not be."""

    what: str
    seconds: int


class Correction(NamedTuple):
    """Tokens counted at a time that were `more` than was thought, or less."""

    subscriber_id: int
    counted_at: dt.datetime
    more: int


def applies(policy: PlanPolicy | None) -> bool:
    """Whether a plan limits anything."""
    return policy is not None and (
        policy.requests_per_minute is not None or policy.tokens_per_minute is not None
    )


def take(asks: Sequence[Ask], *, at: dt.datetime) -> list[Refusal | None]:
    """Count these requests, or say why not. Not to be called inside a transaction: it waits.

    Where Valkey does not answer, plans that fail closed refuse, all others let through.
    """
    if not asks:
        return []
    answers = _run(
        [
            (
                _TAKE,
                _keys(ask.subscriber_id),
                [_second(at), *_limits(ask.policy, ask.tokens)],
            )
            for ask in asks
        ]
    )
    if answers is None:
        return [Refusal("requests", 1) if ask.policy.limits_fail_closed else None for ask in asks]
    return [Refusal(_NAMES[which - 1], wait) if which else None for which, wait in answers]


def correct(corrections: Sequence[Correction]) -> None:
    """Put right what was only estimated, as far as it still counts. Not inside a transaction."""
    some = [correction for correction in corrections if correction.more]
    if some:
        _run(
            [
                (_CORRECT, _keys(one.subscriber_id)[1:], [_second(one.counted_at), one.more])
                for one in some
            ]
        )


_NAMES = ("requests", "tokens")


def _keys(subscriber_id: int) -> list[str]:
    # The braces keep both on one node of a cluster.
    return [f"{settings.RATE_LIMIT_PREFIX}:{{{subscriber_id}}}:{name}" for name in _NAMES]


def _limits(policy: PlanPolicy, tokens: int) -> list[int]:
    requests, most = policy.requests_per_minute, policy.tokens_per_minute
    return [-1 if requests is None else requests, 1, -1 if most is None else most, tokens]


def _second(at: dt.datetime) -> int:
    return int(at.timestamp())


# --- the server ---------------------------------------------------------------------------------

_guard = threading.Lock()
_failed_at = -_PAUSE_SECONDS


@functools.lru_cache(maxsize=2)
def _client(url: str) -> redis.Redis | None:
    """A client of the server at this address, or None where that is none of its kind."""
    if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        return None
    return redis.Redis.from_url(
        url,
        socket_timeout=_PATIENCE_SECONDS,
        socket_connect_timeout=_PATIENCE_SECONDS,
        # A server that was started anew is met by a connection of the old one: once more, at once.
        retry=Retry(NoBackoff(), 1),
    )


def _run(calls: Sequence[tuple[str, list[str], list[int]]]) -> list[Any] | None:
    """What these scripts answer, all sent at once; None where the server does not."""
    global _failed_at
    client = _client(settings.RATE_LIMIT_URL)
    if client is None or time.monotonic() < _failed_at + _PAUSE_SECONDS:
        return None
    try:
        pipeline = client.pipeline(transaction=False)
        for script, keys, arguments in calls:
            _script(client, script)(keys=keys, args=arguments, client=pipeline)
        return list(pipeline.execute())
    except redis.RedisError:
        with _guard:
            _failed_at = time.monotonic()
        return None


@functools.lru_cache(maxsize=4)
def _script(client: redis.Redis, text: str) -> Any:
    return client.register_script(text)


def forget_failures() -> None:
    """Ask again at once."""
    global _failed_at
    _failed_at = -_PAUSE_SECONDS
