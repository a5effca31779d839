"""The wallet: what is in it, what moved, putting money in, and codes that are worth some."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from allauth.account.adapter import get_adapter
from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import pgettext
from django.views.decorators.http import require_GET, require_http_methods
from djmoney.money import Money

from billing import bonuses, rating, statements, top_up_policies, wallets
from billing.auto_top_up import agreements
from billing.checkout import links, refusals
from billing.models import Voucher, VoucherBatch, WalletHold, WalletMovement
from billing.orders import buying
from billing.portal.amounts import AmountField
from billing.portal.orders import before, key_of
from billing.top_up_policies import Policy
from billing.vouchers import redeeming
from billing.vouchers.guessing import LockedOut
from subscriptions.errors import DomainError
from subscriptions.portal.doors import Visit, own, show
from subscriptions.templatetags import figures

_LATEST = 5
_AT_ONCE = 30
# Offered where the operator's policy names no amounts of its own.
_USUAL = (Decimal(20), Decimal(50), Decimal(100), Decimal(200))
_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Line:
    """A movement as it is shown; `order` is the number of the order that it names."""

    row: WalletMovement
    amount: Money
    balance: Money
    order: str


def _line(row: WalletMovement) -> Line:
    order = row.note if "-O-" in row.note and not row.key.startswith("voucher:") else ""
    return Line(row, Money(row.amount, row.currency), Money(row.balance, row.currency), order)


@require_GET
@own
def wallet(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What can be spent, what is set aside or was given, and what moved last."""
    currency, subscriber_id = visit.operator.currency, visit.subscriber.pk
    found = wallets.find(subscriber_id, currency)

    def money(amount: Decimal) -> Money:
        return Money(amount, currency)

    balance, held, bonus = (
        (rating.ZERO,) * 3 if found is None else (found.balance, found.held, found.bonus)
    )
    key = (subscriber_id, currency)
    given = bonuses.left_in([key])[key] if bonus else []
    holds = WalletHold.objects.filter(subscriber_id=subscriber_id, state=WalletHold.State.HELD)
    rows = WalletMovement.objects.filter(subscriber_id=subscriber_id, currency=currency)
    agreement = agreements.last_of(visit.operator, subscriber_id)
    return show(
        request,
        "portal/wallet.html",
        visit,
        free=money(balance - held),
        balance=money(balance),
        held=money(held) if held else None,
        bonus=money(bonus) if bonus else None,
        bonuses=[(money(one.remaining), one.expires_at) for one in given],
        holds=[(one, money(one.amount)) for one in holds.order_by("id")] if held else [],
        latest=[_line(row) for row in rows.order_by("-nr")[:_LATEST]],
        auto=agreement if agreement is not None and agreement.ended_at is None else None,
        section="wallet",
    )


# The statement -----------------------------------------------------------------------------------


def _month_of(request: HttpRequest, visit: Visit) -> dt.date:
    """The month that is asked for, the one that runs where that makes no sense."""
    this = visit.now.astimezone(visit.zone).date().replace(day=1)
    said = _MONTH.fullmatch(request.GET.get("month", ""))
    asked = dt.date(int(said[1]), int(said[2]), 1) if said else this
    return min(asked, this)


def _end_of(month: dt.date) -> dt.date:
    return (month + dt.timedelta(days=32)).replace(day=1) - dt.timedelta(days=1)


@require_GET
@own
def statement(request: HttpRequest, visit: Visit) -> HttpResponse:
    """A month between its opening and closing balance, the latest movement first."""
    month = _month_of(request, visit)
    found = statements.of(visit.operator, visit.subscriber.pk, month, _end_of(month))
    rows = list(before(found.movements, request, "nr")[: _AT_ONCE + 1])
    shown = rows[:_AT_ONCE]
    currency = visit.operator.currency
    last = visit.now.astimezone(visit.zone).date().replace(day=1)
    return show(
        request,
        "portal/statement.html",
        visit,
        month=month,
        earlier=(month - dt.timedelta(days=1)).replace(day=1) if month.year > 2000 else None,
        later=_end_of(month) + dt.timedelta(days=1) if month < last else None,
        opening=Money(found.opening, currency),
        closing=Money(found.closing, currency),
        money_in=Money(found.money_in, currency),
        money_out=Money(found.money_out, currency),
        lines=[_line(row) for row in shown],
        more=shown[-1].nr if len(rows) > _AT_ONCE else None,
        section="wallet",
    )


@require_GET
@own
def statement_csv(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The same month as a file."""
    month = _month_of(request, visit)
    last = _end_of(month)
    found = statements.of(visit.operator, visit.subscriber.pk, month, last)
    return HttpResponse(
        statements.as_csv(visit.operator, found, month, last),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="wallet-{month:%Y-%m}.csv"'},
    )


# Putting money in --------------------------------------------------------------------------------


class TopUpForm(forms.Form):
    """An amount of one's own choice, of those that the policy offers."""

    def __init__(self, policy: Policy, currency: str, data: Any = None) -> None:
        super().__init__(data)
        self.policy, self.currency = policy, currency
        self.fields["amount"] = AmountField(
            currency,
            label=_("Another amount"),
            help_text=_("From %(least)s to %(most)s.")
            % {name: self._money(getattr(policy, name)) for name in ("least", "most")},
            error_messages={"required": _("Write how much.")},
        )

    def _money(self, amount: Decimal) -> str:
        return figures.money(Money(amount, self.currency))

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        if self.policy.offers(amount):
            return amount
        if self.policy.free:
            raise forms.ValidationError(
                _("From %(least)s to %(most)s can be put in at once."),
                params={
                    "least": self._money(self.policy.least),
                    "most": self._money(self.policy.most),
                },
            )
        raise forms.ValidationError(_("Choose one of the amounts that are offered."))


def given_with(policy: Policy, amount: Decimal) -> Decimal:
    """The bonus of a top-up by a policy; none is 0."""
    rule = policy.rule_for(amount)
    return rating.ZERO if rule is None else rule.bonus(amount)


@require_http_methods(["GET", "POST"])
@own
def top_up(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What can be put in and what is given with it; by POST it is ordered, and paid next.

    Asked with an `amount` while somebody types, it answers what would be given with that.
    """
    currency = visit.operator.currency
    policy = top_up_policies.policy_at(visit.operator.pk, at=visit.now)
    if request.headers.get("HX-Request"):
        form = TopUpForm(policy, currency, request.GET)
        amount = form.cleaned_data["amount"] if form.is_valid() else None
        bonus = given_with(policy, amount) if amount else None
        said = {"typed": True, "bonus": Money(bonus, currency) if bonus else None}
        return show(request, "portal/bonus.html", visit, **said)
    form = TopUpForm(policy, currency, request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            made = buying.order_top_up(
                visit.operator,
                visit.subscriber.pk,
                form.cleaned_data["amount"],
                currency=currency,
                at=visit.now,
                key=key_of(request, visit),
            )
        except DomainError as error:
            form.add_error("amount", refusals.reason_of(error))
        else:
            return HttpResponseRedirect(links.path_to_pay(made))
    fixed = policy.fixed or [one for one in _USUAL if policy.offers(one)]
    return show(
        request,
        "portal/top_up.html",
        visit,
        form=form,
        free=policy.free,
        fixed=[
            (one, Money(one, currency), Money(given_with(policy, one), currency)) for one in fixed
        ],
        rules=[
            (
                Money(rule.at_least, currency),
                Money(rule.amount, currency) if rule.amount is not None else None,
                rule,
                Money(rule.cap, currency) if rule.cap is not None else None,
            )
            for rule in sorted(policy.rules, key=lambda rule: rule.at_least)
        ],
        once=uuid.uuid4().hex,
        section="wallet",
    )


# Vouchers ----------------------------------------------------------------------------------------


class VoucherForm(forms.Form):
    """The code as it is printed."""

    def __init__(self, data: Any = None) -> None:
        super().__init__(data)
        attrs = {"autocomplete": "off", "autocapitalize": "characters", "spellcheck": "false"}
        self.fields["code"] = forms.CharField(
            max_length=64,
            label=pgettext("voucher", "Code"),
            help_text=_("16 letters and digits; blanks and hyphens do not matter."),
            widget=forms.TextInput(attrs=attrs),
            error_messages={"required": _("Write the code.")},
        )


def _said_of_code(error: DomainError) -> str:
    said = {
        "voucher_mistyped": _("This is no code: one of its letters or digits is wrong."),
        "voucher_unknown": _("There is no voucher of this code."),
        "voucher_used": _("This voucher was used before."),
        "voucher_void": _("This voucher is void. Ask who sold it."),
        "voucher_expired": _("This voucher has expired."),
        "voucher_not_valid_yet": _("This voucher is not valid yet."),
    }
    return said.get(error.cause, refusals.reason_of(error))


@require_http_methods(["GET", "POST"])
@own
def voucher(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Turn a voucher's code into what it is worth."""
    form = VoucherForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            got = redeeming.redeem(
                visit.operator,
                visit.subscriber.pk,
                form.cleaned_data["code"],
                at=visit.now,
                source=get_adapter().get_client_ip(request),
            )
        except LockedOut as locked:
            minutes = -(-(locked.retry_after or 60) // 60)
            form.add_error(
                "code",
                _("Too many wrong codes were tried. Try again in %(minutes)d minutes.")
                % {"minutes": minutes},
            )
        except DomainError as error:
            form.add_error("code", _said_of_code(error))
        else:
            if isinstance(got, Voucher):
                messages.success(request, _worth(got))
                units = got.batch.gives != VoucherBatch.Gives.MONEY
                return redirect("portal_home" if units else "portal_wallet")
            form.add_error("code", _said_of_code(got))
    return show(request, "portal/voucher.html", visit, form=form, section="wallet")


def _worth(got: Voucher) -> str:
    batch = got.batch
    if batch.gives == VoucherBatch.Gives.MONEY:
        return _("%(amount)s are in your wallet.") % {
            "amount": figures.money(Money(batch.amount, batch.currency))
        }
    units = batch.booster.units if batch.booster is not None else batch.units
    return _("%(units)s tokens are yours.") % {"units": figures.tokens(units)}
