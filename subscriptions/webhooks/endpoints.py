"""Who at an operator hears of what: the only writer of WebhookEndpoint."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from django.db import transaction
from django.db.models import Q, QuerySet

from subscriptions import sealing
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, WebhookEndpoint
from subscriptions.webhooks import addresses, signing

# What can be heard of. A kind that is not here is told to those who hear of all.
KINDS = (
    "bucket.threshold",
    "bucket.exhausted",
    "bucket.expiring",
    "usage.alert",
    "overage.started",
    "bill.abnormal",
    "invoice.issued",
    "invoice.paid",
    "invoice.reminder",
    "invoice.payment_failed",
    "order.paid",
    "order.failed",
    "order.refunded",
    "refund.failed",
    "dispute.inquiry",
    "dispute.opened",
    "dispute.closed",
    "complaint.opened",
    "complaint.answered",
    "wallet.topped_up",
    "wallet.low",
    "wallet.auto_top_up_off",
    "method.expiring",
    "subscription.suspended",
    "subscription.restored",
    "subscription.plan_changed",
    "subscription.renewal_due",
    "subscription.renewed",
    "subscription.ended",
    "family.invited",
    "family.joined",
    "family.removed",
    "family.gift",
)
MOST = 20  # endpoints of an operator: each event is told to all of them
OVERLAP = dt.timedelta(hours=24)
LONGEST_OVERLAP = dt.timedelta(days=7)
# So many calls in a row that fail are more than bad luck: from then on one call at a time, rarer
# and rarer.
BAD_LUCK = 3
FIRST_PAUSE = dt.timedelta(seconds=30)
LONGEST_PAUSE = dt.timedelta(hours=1)
PATIENCE = dt.timedelta(days=3)


class TooMany(Conflict):
    cause = "too_many"


class Disabled(Conflict):
    cause = "disabled"


def of_operator(operator: Operator) -> QuerySet[WebhookEndpoint]:
    return WebhookEndpoint.objects.filter(operator=operator, deleted_at__isnull=True)


def find(operator: Operator, endpoint_id: int) -> WebhookEndpoint:
    """Raises NotFound, for another operator's as for none."""
    endpoint = of_operator(operator).filter(pk=endpoint_id).first()
    if endpoint is None:
        raise NotFound("there is no such endpoint")
    return endpoint


def hearing(operator_ids: Iterable[int]) -> list[WebhookEndpoint]:
    """All endpoints of these operators to which something is to be sent, oldest first."""
    return list(
        WebhookEndpoint.objects.filter(
            operator_id__in=set(operator_ids), deleted_at__isnull=True, disabled_at__isnull=True
        ).order_by("pk")
    )


def heard(operator_id: int, kind: str) -> bool:
    """Whether a system of the operator hears of a kind: what nobody hears of need not be told."""
    return (
        WebhookEndpoint.objects.filter(
            operator_id=operator_id, deleted_at__isnull=True, disabled_at__isnull=True
        )
        .filter(Q(kinds=[]) | Q(kinds__contains=[kind]))
        .exists()
    )


@transaction.atomic
def create(
    operator: Operator, *, url: str, kinds: Sequence[str], description: str, at: dt.datetime
) -> tuple[WebhookEndpoint, str]:
    """A new endpoint, and its secret, which is shown this once.

    Raises Forbidden for an address that is not allowed, TooMany, Invalid.
    """
    addresses.read(url)
    Operator.objects.select_for_update(no_key=True).get(pk=operator.pk)
    if of_operator(operator).count() >= MOST:
        raise TooMany(f"an operator has at most {MOST} endpoints")
    secret = signing.new_secret()
    endpoint = WebhookEndpoint.objects.create(
        operator=operator,
        url=url,
        kinds=_kinds(kinds),
        description=description,
        secret=sealing.seal(secret),
        created_at=at,
    )
    return endpoint, secret


@transaction.atomic
def change(
    operator: Operator,
    endpoint_id: int,
    *,
    url: str | None = None,
    kinds: Sequence[str] | None = None,
    description: str | None = None,
) -> WebhookEndpoint:
    """Change what is said. Another address begins without the failures of the last one."""
    endpoint = _locked(operator, endpoint_id)
    if url is not None and url != endpoint.url:
        addresses.read(url)
        endpoint.url = url
        _well(endpoint)
    if kinds is not None:
        endpoint.kinds = _kinds(kinds)
    if description is not None:
        endpoint.description = description
    endpoint.save()
    return endpoint


@transaction.atomic
def rotate(
    operator: Operator, endpoint_id: int, *, overlap: dt.timedelta = OVERLAP, at: dt.datetime
) -> tuple[WebhookEndpoint, str]:
    """A new secret, shown this once; until `overlap` is over the one before signs too.

    The one before that, where it still did, signs no more.
    """
    if not dt.timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise Invalid("secrets overlap by seven days at most")
    endpoint = _locked(operator, endpoint_id)
    secret = signing.new_secret()
    endpoint.old_secret, endpoint.old_secret_until = endpoint.secret, at + overlap
    if not overlap:
        endpoint.old_secret, endpoint.old_secret_until = "", None
    endpoint.secret = sealing.seal(secret)
    endpoint.save()
    return endpoint, secret


def secrets_of(endpoint: WebhookEndpoint, *, at: dt.datetime) -> list[str]:
    """What signs at `at`, the newest first. Raises sealing.Unreadable."""
    sealed = [endpoint.secret]
    if endpoint.old_secret_until is not None and at < endpoint.old_secret_until:
        sealed.append(endpoint.old_secret)
    return [sealing.unseal(one) for one in sealed]


@transaction.atomic
def disable(operator: Operator, endpoint_id: int, *, reason: str, at: dt.datetime) -> None:
    """Nothing is sent and nothing is kept to be sent until it is enabled. Again changes nothing."""
    endpoint = _locked(operator, endpoint_id)
    if endpoint.disabled_at is None:
        endpoint.disabled_at, endpoint.disabled_reason = at, reason
        endpoint.save()


@transaction.atomic
def enable(operator: Operator, endpoint_id: int) -> WebhookEndpoint:
    """What waited goes on; what happened meanwhile was not kept for it and may be replayed."""
    endpoint = _locked(operator, endpoint_id)
    endpoint.disabled_at, endpoint.disabled_reason = None, ""
    _well(endpoint)
    endpoint.save()
    return endpoint


@transaction.atomic
def delete(operator: Operator, endpoint_id: int, *, at: dt.datetime) -> None:
    """It is gone, with its secrets; its deliveries are dropped with the old ones."""
    endpoint = _locked(operator, endpoint_id)
    endpoint.deleted_at = at
    endpoint.secret, endpoint.old_secret, endpoint.old_secret_until = "", "", None
    endpoint.save()


def note(
    endpoint_id: int, results: Sequence[tuple[bool, int | None, str]], *, at: dt.datetime
) -> None:
    """How an endpoint's calls ended, in their order: (well?, status, error).

    Failures in a row make it pause, three days of nothing else disable it, and 410 does at once:
    its owner says that there is nobody any more. Joins the caller's transaction.
    """
    endpoint = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint_id)
    for good, status, error in results:
        if good:
            if endpoint.failures:
                _well(endpoint)
            continue
        endpoint.failures += 1
        endpoint.failing_since = endpoint.failing_since or at
        if endpoint.failures >= BAD_LUCK:
            endpoint.paused_until = at + _pause(endpoint.failures)
        reason = ""
        if status == 410:
            reason = "the endpoint answered 410 Gone"
        elif at - endpoint.failing_since >= PATIENCE:
            reason = f"no call has succeeded since {endpoint.failing_since.isoformat()}: {error}"
        if reason and endpoint.disabled_at is None:
            endpoint.disabled_at, endpoint.disabled_reason = at, reason[:300]
    endpoint.save(
        update_fields=[
            *("failures", "failing_since", "paused_until", "disabled_at", "disabled_reason")
        ]
    )


def _pause(failures: int) -> dt.timedelta:
    """Doubled with each failure after the first few."""
    doublings: int = min(failures - BAD_LUCK, 10)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def _well(endpoint: WebhookEndpoint) -> None:
    endpoint.failures, endpoint.failing_since, endpoint.paused_until = 0, None, None


def _kinds(kinds: Sequence[str]) -> list[str]:
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise Invalid(f"there is no kind {unknown[0]}")
    return sorted(set(kinds))


def _locked(operator: Operator, endpoint_id: int) -> WebhookEndpoint:
    find(operator, endpoint_id)
    return WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint_id)
