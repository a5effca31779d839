"""What is measured of renewals: plans that are paid before, consents, money in wallets."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from billing import invoicing, ledger, wallets
from billing.ledger import Side
from billing.models import Consent, Order, WalletMovement
from subscriptions import catalog, registry, seeding
from subscriptions.catalog import PlanTerms
from subscriptions.models import Operator, Plan, Subscriber
from subscriptions.registry import Draft

CODE = "renewing"
_ZONE = ZoneInfo("Asia/Shanghai")
SOLD = dt.datetime(2026, 6, 1, tzinfo=_ZONE)
# The next period is asked for, then paid at the first hour of its policy.
ORDERS_AT = dt.datetime(2026, 6, 26, tzinfo=_ZONE)
PAYS_AT = dt.datetime(2026, 6, 30, 8, tzinfo=_ZONE)


def build(count: int, advance: Callable[[int], None]) -> Operator:
    """So many subscribers whose first period is paid, and who agreed to the rest."""
    operator = Operator.objects.create(
        code=CODE, name="Renewing", is_test=True, clock_at=SOLD, created_at=SOLD
    )
    seeding.seed_offerings(operator, at=SOLD)
    terms = PlanTerms(
        name="Before",
        price=seeding.yuan("9.90"),
        allowance=10**10,
        rate_card=seeding.RATE_CARD,
        collect=Plan.Collect.BEFORE_PERIOD,
    )
    catalog.publish_plan(operator, "before", terms, at=SOLD)
    for first in range(0, count, registry.BATCH):
        numbers = range(first, min(first + registry.BATCH, count))
        drafts = [Draft(external_id=f"r-{nr}", plan="before") for nr in numbers]
        outcomes = registry.upsert(operator, drafts, at=SOLD)
        assert all(outcome.status == registry.CREATED for outcome in outcomes)
        _prepare(operator, [draft.external_id for draft in drafts])
        advance(len(drafts))
    with connection.cursor() as cursor:
        # As if an earlier run had asked for them.
        cursor.execute(
            "UPDATE subscriptions_expectedperiod SET asked_at = %s, paid_at = %s"
            " WHERE operator_id = %s",
            [SOLD, SOLD, operator.pk],
        )
        cursor.execute("VACUUM (ANALYZE)")
    return operator


@transaction.atomic
def _prepare(operator: Operator, names: list[str]) -> None:
    """Their consents, and twice the price in their wallets."""
    ids = list(
        Subscriber.objects.filter(operator=operator, external_id__in=names)
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval('billing_consent_id') FROM generate_series(1, %s)", [len(ids)]
        )
        numbers = [nr for (nr,) in cursor.fetchall()]
    prefix = invoicing.number_prefix(operator)
    # Together: given one by one they take longer than all that is measured.
    Consent.objects.bulk_create(
        Consent(
            subscriber_id=subscriber_id,
            id=nr,
            operator=operator,
            number=f"{prefix}-C-{nr:010}",
            kind=Consent.Kind.AUTO_RENEW,
            text="Renew by itself.",
            text_version="1",
            language="en",
            channel="app",
            given_at=SOLD,
        )
        for subscriber_id, nr in zip(ids, numbers, strict=True)
    )
    moves = [
        wallets.Move(pk, "CNY", WalletMovement.Kind.TOP_UP, Decimal("19.80"), "bench") for pk in ids
    ]
    wallets.move(operator.pk, moves, at=SOLD)
    ledger.post_many(
        operator.pk,
        [
            ledger.Draft(
                f"bench:{move.subscriber_id}",
                "top_up",
                SOLD,
                "CNY",
                (Side("cash:bank", move.amount), move.side()),
            )
            for move in moves
        ],
    )


def paid(operator: Operator) -> int:
    """How many have renewed."""
    return Order.objects.filter(operator=operator, way="wallet", state=Order.State.PAID).count()
