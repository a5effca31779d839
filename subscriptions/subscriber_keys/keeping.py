"""Making, limiting, rotating and revoking keys: the only writer of their tables but KeyMisses.

Every change is a step that stays. The subscriber's row is locked first, so that what `guards` says
of all its keys is true whenever somebody looks.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Q

from subscriptions import guards, lifecycle, registry
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.keys import digest_of
from subscriptions.models import KeySecret, KeyStep, Subscriber, SubscriberKey
from subscriptions.units import to_wire

# Live ones of a subscriber.
MOST = 50
MAX_MODELS = 50
MAX_OVERLAP = dt.timedelta(days=7)
# How a key's subject begins where nobody chose one, and what is presented.
SUBJECT_PREFIX = "tbk-"
SECRET_PREFIX = "sk-tb-"  # noqa: S105


class KeyRevoked(Conflict):
    cause = "key_revoked"


class TooManyKeys(Conflict):
    cause = "too_many_keys"


class NameTaken(Conflict):
    cause = "key_name_taken"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a key is called, and what it may be used for: `cap` in thousandths a `cap_per`."""

    name: str
    cap: int | None = None
    cap_per: str = ""
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Issued:
    """A key, and what to present as it: told this once."""

    key: SubscriberKey
    secret: str


@transaction.atomic
def create(
    subscriber: Subscriber, terms: Terms, *, by: str, at: dt.datetime, subject: str = ""
) -> Issued:
    """Make a key; its subject is `subject` (what a gateway of the carrier's calls it already), or
    one that begins with SUBJECT_PREFIX.

    Raises Invalid, NameTaken, TooManyKeys, registry.SubjectTaken.
    """
    _check(terms)
    _lock(subscriber.pk)
    lifecycle.check_open(subscriber.pk)
    live = SubscriberKey.objects.filter(subscriber=subscriber, revoked_at__isnull=True)
    names = set(live.values_list("name", flat=True))
    if terms.name in names:
        raise NameTaken("another key of the subscriber's is called that")
    if len(names) >= MOST:
        raise TooManyKeys(f"a subscriber has at most {MOST} keys; revoke one")
    subject = subject or SUBJECT_PREFIX + secrets.token_hex(10)
    key = SubscriberKey.objects.create(
        operator_id=subscriber.operator_id,
        subscriber=subscriber,
        binding=registry.bind_key(subscriber, subject),
        subject=subject,
        name=terms.name,
        cap=terms.cap,
        cap_per=terms.cap_per,
        allowed_models=list(terms.models),
        created_at=at,
    )
    secret = _issue(key, at=at)
    _note(key, KeyStep.Kind.CREATED, by=by, at=at, **_said(terms), subject=subject)
    _guard(subscriber.pk)
    return Issued(key, secret)


@transaction.atomic
def change(key: SubscriberKey, terms: Terms, *, by: str, at: dt.datetime) -> SubscriberKey:
    """Let other terms hold from now on. Raises Invalid, NameTaken, KeyRevoked."""
    _check(terms)
    held = _locked(key)
    if terms_of(held) == terms:
        return held
    others = SubscriberKey.objects.filter(
        subscriber_id=held.subscriber_id, name=terms.name, revoked_at__isnull=True
    )
    if others.exclude(pk=held.pk).exists():
        raise NameTaken("another key of the subscriber's is called that")
    before = _said(terms_of(held))
    held.name, held.cap, held.cap_per = terms.name, terms.cap, terms.cap_per
    held.allowed_models = list(terms.models)
    SubscriberKey.objects.filter(pk=held.pk).update(
        name=held.name,
        cap=held.cap,
        cap_per=held.cap_per,
        allowed_models=held.allowed_models,
    )
    after = _said(terms)
    changed = {name: [before[name], after[name]] for name in after if before[name] != after[name]}
    _note(held, KeyStep.Kind.CHANGED, by=by, at=at, **changed)
    _guard(held.subscriber_id)
    return held


@transaction.atomic
def rotate(key: SubscriberKey, *, overlap: dt.timedelta, by: str, at: dt.datetime) -> Issued:
    """Present another secret from now on; those before are good for the `overlap` still.

    Raises Invalid, KeyRevoked.
    """
    if not dt.timedelta(0) <= overlap <= MAX_OVERLAP:
        raise Invalid(f"the old one lives on for at most {MAX_OVERLAP.days} days")
    held = _locked(key)
    ends_at = at + overlap
    KeySecret.objects.filter(key=held).filter(
        Q(ends_at__isnull=True) | Q(ends_at__gt=ends_at)
    ).update(ends_at=ends_at)
    secret = _issue(held, at=at)
    _note(held, KeyStep.Kind.ROTATED, by=by, at=at, old_until=ends_at.isoformat())
    return Issued(held, secret)


@transaction.atomic
def revoke(key: SubscriberKey, *, by: str, at: dt.datetime) -> SubscriberKey:
    """Let nobody in by it any more. Again changes nothing.

    Its binding stays: what was reserved before is committed after, and tokens that a gateway lets
    flow all the same were used by whoever has the key, which its subscriber has to see. Nobody else
    is ever called so, so that the name is free for nobody by an end.
    """
    _lock(key.subscriber_id)
    held = SubscriberKey.objects.get(pk=key.pk)
    if held.revoked_at is None:
        # A clock that stands lets one begin and end at once.
        held.revoked_at = max(at, held.created_at)
        SubscriberKey.objects.filter(pk=held.pk).update(revoked_at=held.revoked_at)
        _note(held, KeyStep.Kind.REVOKED, by=by, at=at)
        _guard(held.subscriber_id)
    return held


def _lock(subscriber_id: int) -> None:
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)


def _locked(key: SubscriberKey) -> SubscriberKey:
    _lock(key.subscriber_id)
    held = SubscriberKey.objects.get(pk=key.pk)
    if held.revoked_at is not None:
        raise KeyRevoked("the key was revoked; make another")
    return held


def _check(terms: Terms) -> None:
    if not terms.name.strip():
        raise Invalid("a key has a name")
    if (terms.cap is None) != (terms.cap_per == ""):
        raise Invalid("a cap is so many units a day or month")
    if terms.cap is not None and terms.cap <= 0:
        raise Invalid("a cap is more than nothing; revoke the key instead")
    if len(terms.models) > MAX_MODELS:
        raise Invalid(f"at most {MAX_MODELS} models are named; * stands for any text")


def terms_of(key: SubscriberKey) -> Terms:
    """What holds of a key."""
    return Terms(key.name, key.cap, key.cap_per, tuple(key.allowed_models))


def _said(terms: Terms) -> dict[str, Any]:
    return {
        "name": terms.name,
        "cap": None if terms.cap is None else to_wire(terms.cap),
        "cap_per": terms.cap_per,
        "models": list(terms.models),
    }


def _issue(key: SubscriberKey, *, at: dt.datetime) -> str:
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    KeySecret.objects.create(
        key=key,
        digest=digest_of(secret),
        hint=f"{secret[: len(SECRET_PREFIX) + 3]}…{secret[-4:]}",
        created_at=at,
    )
    return secret


def _note(key: SubscriberKey, kind: str, *, by: str, at: dt.datetime, **detail: Any) -> None:
    nr = KeyStep.objects.filter(key=key).count() + 1
    KeyStep.objects.create(key=key, nr=nr, kind=kind, at=at, by=by, detail=detail)


def _guard(subscriber_id: int) -> None:
    limited = Q(cap__isnull=False) | ~Q(allowed_models=[]) | Q(revoked_at__isnull=False)
    rows = SubscriberKey.objects.filter(limited, subscriber_id=subscriber_id)
    guards.settle(subscriber_id, keys=rows.exists())


# Looking -----------------------------------------------------------------------------------------


def of_subscriber(subscriber_id: int) -> list[SubscriberKey]:
    """A subscriber's keys, those that live first, the newest of each first; with their secrets."""
    rows = SubscriberKey.objects.filter(subscriber_id=subscriber_id).prefetch_related("secrets")
    return sorted(rows, key=lambda key: (key.revoked_at is not None, -key.pk))


def find(subscriber: Subscriber, key_id: int) -> SubscriberKey:
    """Raises NotFound for what is no key of the subscriber's."""
    rows = SubscriberKey.objects.filter(subscriber=subscriber, pk=min(key_id, 2**63 - 1))
    found = rows.prefetch_related("secrets").first()
    if found is None:
        raise NotFound("the subscriber has no such key")
    return found


def names_of(subscriber_id: int) -> dict[str, str]:
    """What the subjects of a subscriber's keys are called, revoked ones' too."""
    rows = SubscriberKey.objects.filter(subscriber_id=subscriber_id)
    return dict(rows.values_list("subject", "name"))


def steps_of(keys: Iterable[SubscriberKey]) -> list[KeyStep]:
    """What was done to these keys, the newest first."""
    rows = KeyStep.objects.filter(key__in=list(keys)).select_related("key")
    return list(rows.order_by("-at", "-key_id", "-nr"))


def live_secrets(key: SubscriberKey, *, at: dt.datetime) -> Sequence[KeySecret]:
    """What it can be presented as now, the newest first."""
    live = [one for one in key.secrets.all() if one.ends_at is None or one.ends_at > at]
    return sorted(live, key=lambda one: -one.pk)
