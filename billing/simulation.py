"""The life of an operator's subscribers, made up from a seed: signups, use, changes of mind,
failures to pay and returns, month after month on a test operator's clock.

It goes through the same functions that the doors and jobs call, and writes nothing by itself, so
that the books have to add up at the end. The same seed lives the same life.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from django.db.models import F

from billing import due, dunning, invoicing, payments
from billing.models import Invoice
from metering import adjusting, parsing
from metering.context import Caller
from metering.ingest import ingest
from subscriptions import (
    catalog,
    clock,
    coupons,
    keys,
    lifecycle,
    periods,
    reference_card,
    registry,
    seeding,
)
from subscriptions.errors import Conflict, DomainError
from subscriptions.models import Operator, Subscriber, Subscription
from subscriptions.policies import Tier
from subscriptions.seeding import yuan

DAY = dt.timedelta(days=1)
BATCH = 1000
# Days of a month at which the clock stops, and what falls due is done.
STOPS = (4, 11, 18, 25)

TRIAL, KEPT = "trial", "kept"
COUPON = "welcome"


@dataclass(slots=True)
class Life:
    """What happened so far, by name."""

    operator: Operator
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


def simulate(
    code: str,
    *,
    months: int,
    subscribers: int,
    seed: int,
    start: dt.datetime,
    say: Callable[[str], None] = lambda text: None,
) -> Life:
    """Live `months` from `start` on with about so many subscribers, as a new test operator.

    `say` hears of each month. Ends when the last period is closed. Raises Conflict where there is
    an operator of that code already: a life is lived once.
    """
    if Operator.objects.filter(code=code).exists():
        raise Conflict(f"there is an operator {code}; name another")
    key = keys.issue(operator_code=code, role="gateway", name="simulated", at=start, test=True)
    operator = Operator.objects.get(code=code)
    found = keys.find(key)
    assert found is not None
    assert found.gateway_id is not None
    caller = Caller(operator.pk, found.gateway_id, found.pk)
    _publish(operator, at=start)
    # A made-up life wants no secret numbers.
    world = _World(Life(operator), caller, Random(seed), subscribers, months)  # noqa: S311
    zone = ZoneInfo(operator.time_zone)
    month = periods.month_start(start, zone)
    for nr in range(months):
        for day in STOPS:
            at = max(start, month + (day - 1) * DAY + DAY / 2)
            world.move(at)
            world.live(at, joining=nr)
        say(f"{month.astimezone(zone):%Y-%m}: {world.told()}")
        month = periods.end_of("calendar_month", month, 1, zone)
    # Late usage may come for 35 days; then the last periods are closed too.
    world.move(month + 40 * DAY)
    return world.life


def _publish(operator: Operator, *, at: dt.datetime) -> None:
    """What carriers sell here, and the plans that show the policies they do not."""
    seeding.seed_offerings(operator, at=at)
    extra: dict[str, dict[str, Any]] = {
        KEPT: {"price": yuan("3.00"), "allowance": 0, "suspends": True},
        "family": {
            "price": yuan("29.00"),
            "allowance": 20_000_000_000,
            "first_month": "by_day",
            "refund": "unused",
            "pause_plan": KEPT,
            "on_exhaustion": "meter",
            "tiers": (
                Tier(10_000_000_000, Decimal("1.50")),
                Tier(None, Decimal("0.90")),
            ),
            "tier_mode": "graduated",
        },
        "bundle": {
            "price": yuan("59.00"),
            "allowance": 40_000_000_000,
            "refund": "unused",
            "pause_plan": KEPT,
            "rollover": "one_cycle",
            "components": (
                catalog.Component(name="Tokens", price=yuan("39.00"), tax_rate=Decimal("0.06")),
                catalog.Component(name="Data", price=yuan("20.00"), tax_rate=Decimal("0.09")),
            ),
        },
        TRIAL: {
            "price": yuan("0"),
            "allowance": 500_000_000,
            "trial_days": 7,
            "converts_to": "family",
        },
    }
    for code, terms in extra.items():
        said = catalog.PlanTerms(name=code.title(), rate_card=seeding.RATE_CARD, **terms)
        catalog.publish_plan(operator, code, said, at=at)
    welcome = coupons.CouponTerms(name="Welcome", percent=Decimal(30), periods=3)
    coupons.publish(operator, COUPON, welcome, at=at)
    dunning.set_policy(operator, at=at)


PLANS = (
    *("light", "light", "light", "standard", "standard", "premium", "developer-basic"),
    *("developer-pro", "family", "family", "bundle", TRIAL, TRIAL),
)
DEARER = ("standard", "premium", "family", "bundle", "developer-pro", "developer-flagship")


class _World:
    """The operator with its subscribers; each step happens at the instant it is given."""

    def __init__(
        self, life: Life, caller: Caller, random: Random, subscribers: int, months: int
    ) -> None:
        self.life, self.caller, self.random = life, caller, random
        self.operator = life.operator
        self.joining = max(1, subscribers // max(1, months))
        self.names: dict[int, str] = {}  # external id by the subscriber's own
        self.models = [w.model for w in reference_card.weights() if "*" not in w.model]
        self.sent: list[tuple[int, str, dt.datetime]] = []  # what may be voided or corrected
        self.nr = 0

    def move(self, at: dt.datetime) -> None:
        """Let it be `at`, and do all that falls due."""
        clock.move(self.operator.pk, to=at)
        self.operator.refresh_from_db()
        due.run(self.operator, at=at)

    def live(self, at: dt.datetime, *, joining: int) -> None:
        """What people do at one instant."""
        self._sign_up(at, first=joining == 0)
        self._use(at)
        self._adjust(at)
        for subscription in self._held(at):
            if self.random.random() < 0.04:
                self._change(subscription, at)
        self._return(at)
        self._pay(at)
        self._credit(at)

    def told(self) -> str:
        """The counts in one line."""
        return ", ".join(f"{name} {many:,}" for name, many in sorted(self.life.counts.items()))

    def _try(self, name: str, work: Callable[[], object]) -> bool:
        """Count what was done, or the cause for which it was refused."""
        try:
            work()
        except DomainError as error:
            self.life.refused[f"{name}: {error.cause}"] += 1
            return False
        self.life.counts[name] += 1
        return True

    # --- joining, changing, leaving ---

    def _sign_up(self, at: dt.datetime, *, first: bool) -> None:
        # Half of those who will ever be there are there from the first month on.
        many = self.joining * (6 if first else 1) // len(STOPS) + 1
        drafts = []
        for _ in range(many):
            self.nr += 1
            name = f"s-{self.nr}"
            drafts.append(
                registry.Draft(
                    external_id=name,
                    name=name,
                    subjects=(f"user-{name}",),
                    plan=self.random.choice(PLANS),
                )
            )
        for start in range(0, len(drafts), registry.BATCH):
            registry.upsert(self.operator, drafts[start : start + registry.BATCH], at=at)
        self.life.counts["signups"] += len(drafts)
        new = Subscriber.objects.filter(operator=self.operator).exclude(pk__in=self.names)
        for pk, name in new.order_by("pk").values_list("pk", "external_id"):
            self.names[pk] = name
            if self.random.random() < 0.2:
                [held] = Subscription.objects.filter(subscriber_id=pk)
                self._redeem(held, at)

    def _held(self, at: dt.datetime) -> list[Subscription]:
        """The subscriptions that run, in a fixed order."""
        return list(
            Subscription.objects.filter(operator=self.operator, starts_at__lte=at)
            .exclude(ends_at__lte=at)
            .select_related("plan")
            .order_by("subscriber_id", "id")
        )

    def _redeem(self, held: Subscription, at: dt.datetime) -> None:
        key = (held.subscriber_id, held.id)
        self._try("coupons", partial(coupons.redeem, self.operator, *key, COUPON, at=at))

    def _change(self, held: Subscription, at: dt.datetime) -> None:
        key = (held.subscriber_id, held.id)
        step = self.random.choice(
            ("upgrade", "change", "cancel", "stay", "end", "pause", "resume", "booster", "gift")
        )
        plan = self.random.choice(DEARER)
        units = self.random.randrange(1, 5_000_000) * 1000
        works: dict[str, Callable[[], object]] = {
            "upgrade": lambda: lifecycle.upgrade(*key, plan, at=at),
            "change": lambda: lifecycle.change(*key, at=at, plan_code=plan),
            "cancel": lambda: lifecycle.change(*key, at=at, cancel_at_period_end=True),
            "stay": lambda: lifecycle.change(*key, at=at, cancel_at_period_end=False),
            "end": lambda: lifecycle.end_now(*key, at=at, reason="moved away", refund=True),
            "pause": lambda: lifecycle.pause(*key, at=at),
            "resume": lambda: lifecycle.resume(*key, at=at),
            "booster": lambda: lifecycle.sell_booster(
                self.operator, held.subscriber_id, "booster-4m", at=at
            ),
            "gift": lambda: lifecycle.give(
                held.subscriber_id, units=units, valid_until=at + 30 * DAY, reason="thanks", at=at
            ),
        }
        self._try(step, works[step])

    def _return(self, at: dt.datetime) -> None:
        """Some who left take a plan again."""
        running = {held.subscriber_id for held in self._held(at)}
        for subscriber_id in self.names:
            if subscriber_id in running or self.random.random() >= 0.03:
                continue
            plan = self.random.choice(PLANS)
            again = partial(lifecycle.subscribe, self.operator, subscriber_id, plan, at=at)
            self._try("returns", again)

    # --- usage ---

    def _use(self, at: dt.datetime) -> None:
        records: list[dict[str, Any]] = []
        owners: list[int] = []
        for subscriber_id, name in self.names.items():
            for _ in range(self.random.choice((0, 0, 1, 2))):
                records.append(self._record(name, at))
                owners.append(subscriber_id)
        self.sent = [
            (owner, said["id"], dt.datetime.fromisoformat(said["occurred_at"]))
            for owner, said in zip(owners, records, strict=True)
        ]
        # Some come twice, as after an answer that got lost.
        records += self.random.sample(records, len(records) // 50)
        for start in range(0, len(records), BATCH):
            body = msgspec.json.encode(records[start : start + BATCH])
            parsed = parsing.parse_native(body)
            done = ingest(
                self.caller, parsed.usages, parsed.rejected, at=at, indexes=parsed.indexes
            )
            self.life.counts["records"] += len(done.charged)
            self.life.counts["duplicates"] += len(done.duplicates)
            self.life.counts["rejected"] += len(done.rejected)

    def _record(self, name: str, at: dt.datetime) -> dict[str, Any]:
        random = self.random
        self.nr += 1
        total = int(10 ** random.uniform(2, 6.8))
        back = random.uniform(0, 30 if random.random() < 0.05 else 7)
        outcome = "upstream_error" if random.random() < 0.02 else "complete"
        return {
            "id": f"u-{self.nr}",
            "subject": f"user-{name}",
            "model": random.choice(self.models),
            "occurred_at": (at - back * DAY).isoformat(),
            "input_tokens": total,
            "cached_input_tokens": random.randrange(total + 1),
            "output_tokens": random.randrange(total + 1),
            "outcome": outcome,
        }

    def _adjust(self, at: dt.datetime) -> None:
        """Void or correct some of what was just sent."""
        why = adjusting.Why("a simulated mistake", "simulated")
        for subscriber_id, record_id, occurred_at in self.random.sample(
            self.sent, len(self.sent) // 100
        ):
            name = adjusting.Name(record_id, occurred_at=occurred_at)
            who = (self.operator, subscriber_id, name)
            if self.random.random() < 0.5:
                self._try("voids", partial(adjusting.void, *who, why, at=at))
            else:
                said = adjusting.Said(output_tokens=self.random.randrange(1_000_000))
                self._try("corrections", partial(adjusting.correct, *who, said, why, at=at))

    # --- money ---

    def _pay(self, at: dt.datetime) -> None:
        """Most pay what is open; one in twelve is a bad payer, who rarely does."""
        open_ones = Invoice.objects.filter(
            operator=self.operator, state=Invoice.State.OPEN, gross__gt=F("paid")
        ).order_by("subscriber_id", "id")
        for invoice in open_ones:
            bad = int(self.names[invoice.subscriber_id].removeprefix("s-")) % 12 == 0
            if self.random.random() >= (0.04 if bad else 0.7):
                continue
            owed = invoicing.amount_due(invoice)
            part = owed if self.random.random() < 0.9 else (owed / 2).quantize(Decimal("0.01"))
            if part > 0:
                pay = partial(
                    payments.record,
                    self.operator,
                    str(invoice.number),
                    amount=part,
                    key=f"{invoice.number}:{invoice.paid}",
                    way="alipay",
                    at=at,
                )
                self._try("payments", pay)

    def _credit(self, at: dt.datetime) -> None:
        """Now and then an invoice is credited in part, or made void."""
        issued = Invoice.objects.filter(
            operator=self.operator,
            kind=Invoice.Kind.PERIOD,
            issued_at__gt=at - 7 * DAY,
            gross__gt=1,
        ).order_by("subscriber_id", "id")
        for invoice in issued:
            chance = self.random.random()
            named = (self.operator, str(invoice.number))
            if chance < 0.01:
                credit = partial(
                    invoicing.credit, *named, reason="goodwill", amount=Decimal("0.50"), at=at
                )
                self._try("credit notes", credit)
            elif chance < 0.015:
                void = partial(invoicing.void, *named, reason="issued in error", at=at)
                self._try("void invoices", void)
