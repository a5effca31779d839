"""A subscriber on one page: what they have, what they used, what they owe, what they were told and
what was done; and the way to all that may be done."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.db.models import Case, CharField, Q, Value, When
from django.db.models.functions import Cast
from django.db.models.query import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from djmoney.money import Money

from billing import wallets
from billing.models import (
    AnomalyCase,
    Complaint,
    Invoice,
    Order,
    PaymentTask,
    ProviderAccount,
    ProviderEvent,
)
from metering import rollups
from metering.models import QuarantinedRecord, UsageRecord
from metering.portal import charts
from subscriptions import balances, periods
from subscriptions.console import finding, masks, words
from subscriptions.console.deeds import Record
from subscriptions.console.lists import List
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.console.site import site
from subscriptions.errors import NotFound
from subscriptions.models import (
    Access,
    AuditEntry,
    Bucket,
    Notice,
    OutboxEvent,
    Role,
    Subject,
    Subscriber,
    Subscription,
    Suspension,
    WebhookDelivery,
)
from subscriptions.models.webhooks import MessageDigest

# Rows of each table on the page, and days of its chart.
ROWS, DAYS = 8, 30
# What a search shows beside subscribers; a record is looked for among so few of them, and as long
# as its list goes back.
_MOST_HITS, _MOST_WHOSE = 20, 3
_RECENT = dt.timedelta(days=35)
NOTHING = Value("")
EVERYBODY = (Role.AGENT, Role.FINANCE, Role.OPERATIONS, Role.PRODUCT)


def find(visit_operator_id: int, subscriber_id: int) -> Subscriber:
    """Raises NotFound, also for another operator's."""
    rows = Subscriber.objects.filter(operator_id=visit_operator_id, pk=min(subscriber_id, 2**62))
    found = rows.select_related("operator").first()
    if found is None:
        raise NotFound("there is no such subscriber")
    return found


@dataclass(frozen=True, slots=True)
class Left:
    """A bucket in burn order; of 1,000, `share` is left."""

    bucket: Bucket
    remaining: int | None
    share: int


class Line(NamedTuple):
    """Something that was told, done or found, as a short table shows it."""

    table: str
    key: str
    kind: str
    state: str
    at: dt.datetime
    beside: str
    reason: str


@dataclass(frozen=True, slots=True)
class Hit:
    """Something found that is no subscriber."""

    kind: Text
    name: str
    link: str


def part(
    table: str,
    rows: QuerySet[Any],
    most: int = ROWS,
    *,
    key: Any = "pk",
    kind: Any = "kind",
    state: Any = NOTHING,
    at: Any = "occurred_at",
    beside: Any = NOTHING,
    reason: Any = NOTHING,
) -> QuerySet[Any, Any]:
    """So many rows as lines of a table, by the fields that each column comes from."""
    said = (Value(table), Cast(key, CharField()), kind, state, at, beside, reason)
    return rows.values_list(*said)[:most]


@page
class Search(Page):
    name = "find_subscriber"
    address = "find/"
    title = _("Find a subscriber")
    help = _(
        "By their id, phone, e-mail, name or number, by an invoice or an order; an event by its id,"
        " a usage record by the subscriber, a space, and its id; what was not charged by its id."
    )
    section, icon, order = Section.CUSTOMERS, "person_search", 10
    roles = EVERYBODY
    template_name = "console/find.html"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        asked = request.GET.get("q", "").strip().replace("\0", "")[:600]
        found = self._found(asked) if asked else []
        hits = self._hits(asked) if asked else []
        ways = [
            *(reverse("admin:subscriber", args=[one.pk]) for one in found),
            *(hit.link for hit in hits),
        ]
        if len(ways) == 1:
            return HttpResponseRedirect(ways[0])
        shown = [(one, masks.name(one.name), masks.phone(one.msisdn)) for one in found]
        return self.show(asked=asked, found=shown, hits=hits)

    def _hits(self, asked: str) -> list[Hit]:
        """Events and records, of those lists that this role may open."""
        rows: list[tuple[str, Any]] = []
        accounts = ProviderAccount.objects.filter(operator=self.operator).values_list("pk")
        events = ProviderEvent.objects.filter(account__in=list(accounts), event_id=asked)
        rows += [("provider_events", one) for one in events[:_MOST_HITS]]
        if asked.startswith("evt_"):
            told = WebhookDelivery.objects.filter(endpoint__operator=self.operator)
            told = told.alias(message=MessageDigest()).filter(message=asked.removeprefix("evt_"))
            rows += [("webhook_deliveries", one) for one in told[:_MOST_HITS]]
        who, _space, record = asked.partition(" ")
        whose = finding.subscriber_ids(self.operator, who) if record else []
        if len(whose) <= _MOST_WHOSE:
            used = UsageRecord.objects.filter(
                subscriber_id__in=whose,
                record_id=record.strip(),
                occurred_at__gte=self.now - _RECENT,
            )
            rows += [("usage_records", one) for one in used[:_MOST_HITS]]
        hits = []
        lost = QuarantinedRecord.objects.filter(operator=self.operator, record_id=asked)
        waiting = site.pages["quarantine"]
        if self.visit.may(waiting.permission()) and lost.exists():
            link = f"{reverse('admin:quarantine')}?{urlencode({'q': asked})}"
            hits.append(Hit(waiting.title, asked, link))
        for name, row in rows:
            lister = site.pages[name]
            assert issubclass(lister, List)
            if self.visit.may(lister.permission()):
                link = reverse(f"admin:{name}_row", args=[lister.key_of(row)])
                hits.append(Hit(lister.title, str(row), link))
        return hits

    def _found(self, asked: str) -> list[Subscriber]:
        """Each way is one look into an index."""
        ids = set(finding.subscriber_ids(self.operator, asked))
        for model in (Invoice, Order):
            rows = model.objects.filter(operator=self.operator, number=asked)
            ids |= set(rows.values_list("subscriber_id", flat=True)[:9])
        own = Subscriber.objects.filter(operator=self.operator, pk__in=ids)
        return list(own.order_by("external_id"))


@page
class Subscriber360(Record):
    name = "subscriber"
    address = "subscriber/<int:subscriber_id>/"
    title = _("Subscriber")
    roles = EVERYBODY
    parent = "find_subscriber"
    template_name = "console/subscriber.html"

    subscriber: Subscriber

    def heading(self) -> Text:
        return self.subscriber.external_id

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.subscriber = find(self.operator.pk, kwargs["subscriber_id"])
        self.saw(self.subscriber)
        return self.show(**self._context(shown=False))

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        """Show what is masked, once, to somebody who says why; that is written down before."""
        self.subscriber = find(self.operator.pk, kwargs["subscriber_id"])
        reason = request.POST.get("reason", "").replace("\0", "").strip()[:200]
        if not reason:
            return self.show(status=422, needs_reason=True, **self._context(shown=False))
        self.visit.note(
            "subscriber.show",
            about=f"subscriber/{self.subscriber.external_id}",
            subscriber=self.subscriber,
            after={"shown": ["name", "msisdn", "email", "subjects"]},
            reason=reason,
        )
        return self.show(**self._context(shown=True))

    def _context(self, *, shown: bool) -> dict[str, Any]:
        one, now = self.subscriber, self.now
        balances.bring_up(one.pk, at=now)
        balance = balances.balance_of(one.pk, as_of=now, grace=self.operator.late_grace)
        left = [
            Left(
                bucket,
                balances.remaining(bucket),
                min(1000, 1000 * (balances.remaining(bucket) or 0) // bucket.granted)
                if bucket.granted
                else 0,
            )
            for bucket in balance.buckets
        ]
        wallet = wallets.find(one.pk, self.operator.currency)
        return {
            "subscriber": one,
            "shown": shown,
            "personal": self._personal(shown),
            "held": list(
                Subscription.objects.filter(subscriber_id=one.pk)
                .filter(Q(ends_at__isnull=True) | Q(ends_at__gt=now))
                .select_related("plan", "next_plan", "paused_plan")
                .order_by("starts_at")
            ),
            "available": balance.available,
            "reserved": balance.reserved,
            "left": left,
            "wallet": Money(wallet.balance if wallet else 0, self.operator.currency),
            **self._usage(),
            **self._money(),
            **self._lines(shown),
            "deeds": self._deeds(),
            "may_notice": self._may("send_notice_again"),
            "may_webhook": self._may("send_webhook_again"),
        }

    def _personal(self, shown: bool) -> list[tuple[Text, str]]:
        one = self.subscriber
        return [
            (_("Name"), one.name if shown else masks.name(one.name)),
            (_("Phone"), one.msisdn if shown else masks.phone(one.msisdn)),
            (_("E-mail"), one.email if shown else masks.email(one.email)),
        ]

    def _usage(self) -> dict[str, Any]:
        """A bar a day of the last thirty, by model."""
        today = periods.day_of(self.now, self.visit.zone)
        first = today - dt.timedelta(days=DAYS - 1)
        rows = rollups.usage(
            self.operator.pk,
            self.subscriber.pk,
            self.visit.zone,
            since=periods.midnight(first, self.visit.zone),
            until=self.now + dt.timedelta(minutes=5),
            by="day",
            by_model=True,
        )
        sums: dict[str, int] = {}
        for row in rows:
            sums[row.model or ""] = sums.get(row.model or "", 0) + row.units
        named = sorted(sums, key=lambda name: (-sums[name], name))
        places = {name: min(nr, 5) for nr, name in enumerate(named)}
        columns = [[0] * 6 for _day in range(DAYS)]
        for row in rows:
            nr = (periods.day_of(row.period, self.visit.zone) - first).days
            if 0 <= nr < DAYS:
                columns[nr][places[row.model or ""]] += row.units
        return {
            "bars": charts.bars(columns),
            "first_day": first,
            "models": [(nr, name, sums[name]) for nr, name in enumerate(named[:5], start=1)],
            "others": sum(sums[name] for name in named[5:]),
            "used": sum(sums.values()),
        }

    def _money(self) -> dict[str, Any]:
        whose = self.subscriber.pk
        invoices = Invoice.objects.filter(subscriber_id=whose).exclude(state=Invoice.State.DRAFT)
        return {
            "invoices": [
                (
                    row,
                    words.state(row.state),
                    Money(row.gross, row.currency),
                    Money(row.gross - row.paid, row.currency),
                )
                for row in invoices.order_by("-id")[:ROWS]
            ],
            "orders": [
                (row, Money(row.amount, row.currency))
                for row in Order.objects.filter(subscriber_id=whose).order_by("-id")[:ROWS]
            ],
        }

    def _lines(self, shown: bool) -> dict[str, Any]:
        """The newest lines of each short table, by its name: one question for all of them."""
        of = {"subscriber_id": self.subscriber.pk}
        running = Q(ends_at__isnull=True) | Q(ends_at__gt=self.now)
        frozen = Case(When(frozen=True, then=Value("frozen")), default=Value("suspended"))
        suspensions = Suspension.objects.filter(running, starts_at__lte=self.now, **of)
        subjects = Subject.objects.filter(valid_until__isnull=True, **of).order_by("subject")
        signs_in = Access.objects.filter(**of)
        notices = Notice.objects.filter(**of).order_by("-id")
        told = WebhookDelivery.objects.filter(endpoint__operator=self.operator, **of)
        events = OutboxEvent.objects.filter(**of).order_by("-occurred_at")
        unclear = PaymentTask.objects.filter(
            operator=self.operator, payment__subscriber_id=self.subscriber.pk
        ).exclude(state=PaymentTask.State.RESOLVED)
        cases = AnomalyCase.objects.filter(**of).order_by("-id")
        complaints = Complaint.objects.filter(**of).order_by("-id")
        audit = AuditEntry.objects.filter(**of).order_by("-id")
        asked = [
            part("suspended", suspensions, 1, key=NOTHING, kind=frozen, at="starts_at"),
            part("subjects", subjects, 12, kind="subject", at=Value(self.now)),
            part("signs_in", signs_in, 1, kind=NOTHING, at="created_at"),
            part("notices", notices, state="state", beside="channel", reason="reason"),
            part(
                "deliveries",
                told.order_by("-occurred_at", "-id"),
                state="state",
                beside="endpoint__url",
            ),
            part("events", events, key="key"),
            part("unclear", unclear, kind="cause", at="created_at"),
            part("cases", cases, 3, state="state", at="found_at"),
            part("audit", audit, kind="action", at="at", beside="who", reason="reason"),
        ]
        if self._may("complaints"):
            asked.append(
                part("complaints", complaints, 3, key="number", state="state", at="opened_at")
            )
        found: dict[str, list[Line]] = defaultdict(list)
        first, *others = asked
        for line in map(Line._make, first.union(*others, all=True)):
            found[line.table].append(line)
        for lines in found.values():  # the database promises no order across the parts
            lines.sort(key=lambda line: line.at, reverse=True)
        return {
            **found,
            "audit": [(line, words.deed(line.kind)) for line in found["audit"]],
            "subjects": [
                line.kind if shown else masks.subject(line.kind)
                for line in sorted(found["subjects"], key=lambda line: line.kind)
            ],
        }

    def _deeds(self) -> list[tuple[Text, str]]:
        """What this role may do here, and where."""
        names = (
            "give_units",
            "give_money",
            "sell_booster",
            "change_plan",
            "void_usage",
            "suspend_line",
            "restore_line",
            "look_as_subscriber",
        )
        return [
            (site.pages[name].title, reverse(f"admin:{name}", args=[self.subscriber.pk]))
            for name in names
            if self._may(name)
        ]

    def _may(self, name: str) -> bool:
        return self.visit.may(site.pages[name].permission())
