"""What staff do about one subscriber: each asks why, and calls the function that the doors call."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _

from billing import dunning, giving
from billing.console.subscriber import find
from billing.models import Approval
from metering import adjusting
from metering.adjusting import Name
from metering.adjusting import Why as Because
from subscriptions import catalog, lifecycle, periods
from subscriptions.console.deeds import Deed, Record, Why
from subscriptions.console.pages import Text, page
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Role, Subscriber, Subscription, Suspension
from subscriptions.notices import queue as notices
from subscriptions.portal import looking, offers
from subscriptions.templatetags.figures import moment, money, tokens
from subscriptions.units import THOUSANDTHS
from subscriptions.webhooks import queue as webhooks

AGENTS: tuple[Role, ...] = (Role.AGENT,)


class OfSubscriber(Deed):
    """A deed about the subscriber in its address."""

    roles: ClassVar[Sequence[Role]] = AGENTS
    parent = "find_subscriber"
    subscriber: Subscriber

    def find(self, **kwargs: Any) -> None:
        self.subscriber = find(self.operator.pk, kwargs["subscriber_id"])

    def whose(self) -> Subscriber:
        return self.subscriber

    def about(self) -> str:
        return f"subscriber/{self.subscriber.external_id}"

    def back(self) -> str:
        return reverse("admin:subscriber", args=[self.subscriber.pk])

    def breadcrumbs(self) -> list[tuple[Text, str]]:
        return [*super().breadcrumbs(), (self.subscriber.external_id, self.back())]

    def facts(self) -> list[tuple[Text, Any]]:
        return [(_("Subscriber"), self.subscriber.external_id)]


# Units --------------------------------------------------------------------------------------------


class Gift(Why):
    tokens = forms.DecimalField(
        label=_("Tokens"),
        min_value=Decimal(1),
        max_value=Decimal(10**12),
        decimal_places=0,
        help_text=_("Whole tokens of weight 1, such as 1000000."),
    )
    until = forms.DateField(
        label=_("Last day"),
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text=_("They can be used to the end of this day."),
    )


@page
class GiveUnits(OfSubscriber):
    name = "give_units"
    address = "subscriber/<int:subscriber_id>/give/"
    title = _("Give tokens")
    help = _("A gift: burnt before the allowance, not refundable, gone after its last day.")
    form_class, button = Gift, _("Give")

    def do(self, said: dict[str, Any]) -> Text:
        units = int(said["tokens"]) * THOUSANDTHS
        made = giving.give(
            self.operator,
            self.subscriber.pk,
            units=units,
            valid_until=periods.midnight(said["until"] + dt.timedelta(days=1), self.visit.zone),
            reason=said["reason"],
            by=self.by(),
            at=self.now,
            once=f"console:{said['once']}",
        )
        if isinstance(made, Approval):
            return now_("That is above your limit: another person has to approve it.")
        return now_("%(tokens)s were given.") % {"tokens": tokens(units)}


class Credit(Why):
    amount = forms.DecimalField(
        label=_("Amount"),
        min_value=Decimal("0.01"),
        max_value=Decimal(10**6),
        decimal_places=2,
        help_text=_("In the operator's currency. It is spent first, and never paid out."),
    )
    until = forms.DateField(
        label=_("Last day"),
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text=_("What is left of it lapses with this day; empty: never."),
    )


@page
class GiveMoney(OfSubscriber):
    name = "give_money"
    address = "subscriber/<int:subscriber_id>/credit/"
    title = _("Give money")
    help = _("A bonus in the wallet.")
    form_class, button = Credit, _("Give")

    def do(self, said: dict[str, Any]) -> Text:
        last = said["until"]
        made = giving.credit(
            self.operator,
            self.subscriber.pk,
            said["amount"],
            expires_at=last and periods.midnight(last + dt.timedelta(days=1), self.visit.zone),
            reason=said["reason"],
            by=self.by(),
            at=self.now,
            once=f"console:{said['once']}",
        )
        if isinstance(made, Approval):
            return now_("That is above your limit: another person has to approve it.")
        return now_("It is in the wallet.")


class Booster(Why):
    booster = forms.CharField(
        label=_("Booster"), max_length=64, help_text=_("Those on sale, in their newest version.")
    )


@page
class SellBooster(OfSubscriber):
    name = "sell_booster"
    address = "subscriber/<int:subscriber_id>/booster/"
    title = _("Sell a booster")
    help = _("It is charged with the next invoice. Its tokens can be used at once.")
    form_class, button = Booster, _("Sell")

    def ask(self, form: forms.Form, status: int = 200) -> HttpResponse:
        form.fields["booster"].widget = forms.Select(
            choices=[
                (one.code, f"{one.name} · {tokens(one.units)} · {money(one.price)}")
                for one in offers.boosters(self.operator)
            ]
        )
        return super().ask(form, status)

    def do(self, said: dict[str, Any]) -> Text:
        booster = catalog.newest_booster(self.operator.pk, said["booster"])
        lifecycle.check_open(self.subscriber.pk)
        lifecycle.sell_one(booster, self.subscriber.pk, sale=f"console-{said['once']}", at=self.now)
        return now_("%(name)s was sold.") % {"name": booster.name}


class Void(Why):
    request = forms.CharField(
        label=_("Request"), max_length=512, help_text=_("Its id, as in the receipt.")
    )
    gateway = forms.CharField(
        label=_("Gateway"),
        max_length=100,
        required=False,
        help_text=_("Only where several have a request of this id."),
    )


@page
class VoidUsage(OfSubscriber):
    name = "void_usage"
    address = "subscriber/<int:subscriber_id>/void/"
    title = _("Take a request back")
    help = _("As if it never was: its tokens go back to where they came from, or off the bill.")
    form_class, button, danger = Void, _("Take it back"), True
    alone = True

    def do(self, said: dict[str, Any]) -> Text:
        try:
            adjusted = adjusting.void(
                self.operator,
                self.subscriber.pk,
                Name(said["request"], said["gateway"] or None),
                Because(said["reason"], self.by()),
                at=self.now,
            )
        except NotFound as error:  # what was typed is wrong, not the page
            raise Invalid(error.detail) from error
        return now_("The request of %(at)s was taken back.") % {
            "at": moment(adjusted.record.occurred_at)
        }


# Plan and line ------------------------------------------------------------------------------------


class Change(Why):
    plan = forms.CharField(
        label=_("Plan"), max_length=64, help_text=_("Those on sale, in their newest version.")
    )
    when = forms.ChoiceField(
        label=_("When"),
        choices=[
            ("period", _("With the next period")),
            ("now", _("Now, as an upgrade: the dearer plan's allowance for the days left")),
        ],
        help_text=_("An upgrade is charged by the days that are left of the period."),
    )


@page
class ChangePlan(OfSubscriber):
    name = "change_plan"
    address = "subscriber/<int:subscriber_id>/plan/"
    title = _("Change the plan")
    help = _("A dearer plan may begin now; any plan may begin with the next period.")
    form_class, button = Change, _("Change")
    held: Subscription | None

    def find(self, **kwargs: Any) -> None:
        super().find(**kwargs)
        rows = Subscription.objects.filter(
            subscriber_id=self.subscriber.pk, starts_at__lte=self.now
        ).select_related("plan", "next_plan")
        self.held = rows.exclude(ends_at__lte=self.now).order_by("-starts_at").first()

    def ask(self, form: forms.Form, status: int = 200) -> HttpResponse:
        form.fields["plan"].widget = forms.Select(
            choices=[(one.code, one.name) for one in offers.plans(self.operator)]
        )
        return super().ask(form, status)

    def facts(self) -> list[tuple[Text, Any]]:
        held = self.held.plan.name if self.held else _("None")
        to_come = self.held.next_plan.name if self.held and self.held.next_plan else _("The same")
        return [*super().facts(), (_("Plan held"), held), (_("With the next period"), to_come)]

    def before(self) -> dict[str, Any] | None:
        return {"plan": self.held.plan.code} if self.held else None

    def do(self, said: dict[str, Any]) -> Text:
        if self.held is None:
            raise Invalid("the subscriber holds no plan")
        whose, which = self.subscriber.pk, self.held.id
        if said["when"] == "now":
            lifecycle.upgrade(whose, which, said["plan"], at=self.now)
        else:
            lifecycle.change(whose, which, at=self.now, plan_code=said["plan"])
        return now_("The plan is changed.")


@page
class SuspendLine(OfSubscriber):
    name = "suspend_line"
    address = "subscriber/<int:subscriber_id>/suspend/"
    title = _("Freeze the line")
    help = _(
        "To protect it: from now on nothing of the subscriber's own is used. A payment "
        "does not lift it."
    )
    roles = (Role.AGENT, Role.OPERATIONS)
    button, danger = _("Freeze"), True

    def do(self, said: dict[str, Any]) -> Text:
        if Suspension.objects.filter(
            subscriber_id=self.subscriber.pk, ends_at__isnull=True, frozen=True
        ).exists():
            return now_("The line was frozen already.")
        lifecycle.suspend(self.subscriber.pk, reason=said["reason"], at=self.now, frozen=True)
        return now_("The line is frozen.")


@page
class RestoreLine(OfSubscriber):
    name = "restore_line"
    address = "subscriber/<int:subscriber_id>/restore/"
    title = _("Restore the line")
    help = _(
        "Ends the freeze. A line that is suspended for what is due runs again when that is paid,"
        " credited or written off, and by nothing else."
    )
    roles = (Role.AGENT, Role.OPERATIONS, Role.FINANCE)
    button = _("Restore")

    def facts(self) -> list[tuple[Text, Any]]:
        running = self._running()
        told = (
            [(_("Stopped since"), moment(running.starts_at)), (_("Why"), running.reason)]
            if running
            else [(_("Line"), _("Runs"))]
        )
        return [*super().facts(), *told]

    def _running(self) -> Suspension | None:
        rows = Suspension.objects.filter(subscriber_id=self.subscriber.pk, ends_at__isnull=True)
        return rows.first()

    def do(self, said: dict[str, Any]) -> Text:
        Subscriber.objects.select_for_update(no_key=True).get(pk=self.subscriber.pk)
        running = self._running()
        if running is not None and not running.frozen and running.reason == dunning.UNPAID:
            raise OpenDebt("the line is suspended for what is due")
        lifecycle.restore(self.subscriber.pk, at=self.now)
        return now_("The line is restored.")


class OpenDebt(Conflict):
    cause = "open_debt"


# What was told ------------------------------------------------------------------------------------


@page
class SendNoticeAgain(OfSubscriber):
    name = "send_notice_again"
    address = "subscriber/<int:subscriber_id>/notices/<int:notice_id>/again/"
    title = _("Send a notice again")
    help = _("By the same channel, to the address that the subscriber has now.")
    button = _("Send")
    notice_id: int

    def find(self, **kwargs: Any) -> None:
        super().find(**kwargs)
        self.notice_id = kwargs["notice_id"]
        notices.find(self.subscriber.pk, self.notice_id)

    def do(self, said: dict[str, Any]) -> Text:
        notices.again(self.subscriber.pk, self.notice_id, at=self.now)
        return now_("It will be sent.")


@page
class SendWebhookAgain(OfSubscriber):
    name = "send_webhook_again"
    address = "subscriber/<int:subscriber_id>/webhooks/<int:delivery_id>/again/"
    title = _("Send an event again")
    help = _("To the operator's system, under the same id: it knows what it has seen.")
    roles = (Role.AGENT, Role.OPERATIONS)
    button = _("Send")
    delivery_id: int

    def find(self, **kwargs: Any) -> None:
        super().find(**kwargs)
        self.delivery_id = kwargs["delivery_id"]
        delivery = webhooks.find(self.operator, self.delivery_id)
        if delivery.subscriber_id != self.subscriber.pk:
            raise NotFound("there is no such delivery")

    def do(self, said: dict[str, Any]) -> Text:
        webhooks.replay(self.operator, self.delivery_id, at=self.now)
        return now_("It will be sent.")


# Their own view -----------------------------------------------------------------------------------


@page
class LookAsSubscriber(OfSubscriber):
    """The portal as they see it: to look only, under a banner, for half an hour."""

    name = "look_as_subscriber"
    address = "subscriber/<int:subscriber_id>/look/"
    title = _("See their portal")
    help = _("You see what they see, and can change nothing. That you looked is written down.")
    button = _("Look")

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        answer = super().post(request, **kwargs)
        if isinstance(answer, HttpResponseRedirect):
            looking.begin(request, self.visit.staff, self.subscriber)
            return HttpResponseRedirect(reverse("portal_home"))
        return answer

    def do(self, said: dict[str, Any]) -> Text:
        return now_("You see their portal now.")


@page
class StopLooking(Record):
    name = "stop_looking"
    address = "look/stop/"
    title = _("Back to the console")
    roles = AGENTS
    changes = True

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        whose = looking.end(request)
        if whose is None:
            return HttpResponseRedirect(reverse("admin:index"))
        return HttpResponseRedirect(reverse("admin:subscriber", args=[whose]))
