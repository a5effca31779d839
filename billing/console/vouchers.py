"""Batches of vouchers: ordered, made by workers, their codes shown once, sold and made void."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from django import forms
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from djmoney.money import Money

from billing.exports import cells
from billing.models import VoucherBatch, VoucherStep
from billing.vouchers import keeping
from billing.vouchers.keeping import Terms
from subscriptions import periods
from subscriptions.console.deeds import Deed, Record, Why, in_words
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.errors import DomainError, NotFound
from subscriptions.models import Role
from subscriptions.portal import offers
from subscriptions.templatetags.figures import money, tokens
from subscriptions.units import THOUSANDTHS

ROLES = (Role.FINANCE, Role.PRODUCT)
_MOST = 50


def worth(batch: VoucherBatch) -> str:
    """What one of them is good for."""
    if batch.units is not None:
        return tokens(batch.units)
    price = money(Money(batch.amount, batch.currency))
    return f"{batch.booster.name} ({price})" if batch.booster is not None else price


@page
class VoucherBatches(Page):
    name = "voucher_batches"
    address = "vouchers/"
    title = _("Voucher batches")
    help = _("Cards that are sold elsewhere. Codes are made once, kept as hashes, and shown once.")
    section, icon, order = Section.PRODUCTS, "redeem", 60
    roles = (*ROLES, Role.AGENT)
    template_name = "console/vouchers.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        rows = VoucherBatch.objects.filter(operator=self.operator)
        before = self.request.GET.get("before", "")
        if before.isdecimal() and len(before) < 19:
            rows = rows.filter(pk__lt=int(before))
        found = list(rows.select_related("booster").order_by("-pk")[: _MOST + 1])
        return {
            "batches": [(one, worth(one)) for one in found[:_MOST]],
            "more": found[_MOST - 1].pk if len(found) > _MOST else None,
            "may": self.visit.may(OrderBatch.permission()),
        }


@page
class VoucherBatchPage(Record):
    name = "voucher_batch"
    address = "vouchers/<slug:code>/"
    title = _("Voucher batch")
    roles = VoucherBatches.roles
    parent = "voucher_batches"
    template_name = "console/voucher_batch.html"
    batch: VoucherBatch

    def heading(self) -> Text:
        return f"{self.batch.code} · {self.batch.name}"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.batch = keeping.find_batch(self.operator, kwargs["code"])
        deeds = [
            (one.title, reverse(f"admin:{one.name}", args=[self.batch.code]))
            for one in (Activate, MakeVoid)
            if self.visit.may(one.permission())
        ]
        return self.show(
            batch=self.batch,
            worth=worth(self.batch),
            counts=keeping.counts(self.batch),
            share=1000 * self.batch.made // self.batch.count,
            steps=list(VoucherStep.objects.filter(batch=self.batch).order_by("-nr")[:20]),
            deeds=deeds,
            may_show=self.visit.may(ShowCodes.permission())
            and self.batch.shown_at is None
            and self.batch.made == self.batch.count,
        )


class NewBatch(Why):
    code = forms.RegexField(
        label=_("Identifier"),
        regex=r"^[A-Za-z0-9][A-Za-z0-9_]{0,31}$",
        help_text=_("Begins each serial number, such as SPRING26."),
    )
    name = forms.CharField(
        label=_("Name"), max_length=200, help_text=_("As customers read it when they redeem one.")
    )
    count = forms.IntegerField(
        label=_("How many"), min_value=1, max_value=1_000_000, help_text=_("Up to a million.")
    )
    gives = forms.ChoiceField(
        label=_("What each gives"),
        choices=[
            ("money", _("Money into the wallet")),
            ("units", _("Tokens, as a gift")),
            ("booster", _("A booster")),
        ],
        help_text=_("Fill in the fields below that belong to it."),
    )
    amount = forms.DecimalField(
        label=_("Amount"),
        required=False,
        min_value=Decimal("0.01"),
        max_digits=11,
        decimal_places=2,
        help_text=_("In the operator's currency, where it gives money."),
    )
    tokens = forms.DecimalField(
        label=_("Tokens"),
        required=False,
        min_value=Decimal(1),
        max_value=Decimal(10**12),
        decimal_places=0,
        help_text=_("Where it gives tokens."),
    )
    valid_days = forms.IntegerField(
        label=_("Days that the tokens last"),
        required=False,
        min_value=1,
        max_value=3660,
        help_text=_("Of tokens: counted from the redemption."),
    )
    booster = forms.CharField(
        label=_("Booster"),
        required=False,
        max_length=64,
        help_text=_("Where it gives a booster."),
    )
    first = forms.DateField(
        label=_("First day"),
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text=_("Before it none can be redeemed."),
    )
    last = forms.DateField(
        label=_("Last day"),
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text=_("With its end all that are left lapse."),
    )

    def clean(self) -> dict[str, Any]:
        said = super().clean() or {}
        needed = {"money": ("amount",), "units": ("tokens", "valid_days"), "booster": ("booster",)}
        for name in needed.get(said.get("gives", ""), ()):
            if not said.get(name) and name not in self.errors:
                self.add_error(name, _("It is needed for what each gives."))
        return said


@page
class OrderBatch(Deed):
    name = "order_vouchers"
    address = "new-vouchers/"
    title = _("New batch of vouchers")
    help = _(
        "Workers make them. The key that opens the codes is shown once, now: keep it like money."
    )
    roles = ROLES
    parent = "voucher_batches"
    form_class, button = NewBatch, _("Order the batch")

    def ask(self, form: forms.Form, status: int = 200) -> HttpResponse:
        form.fields["booster"].widget = forms.Select(
            choices=[("", "—"), *((one.code, one.name) for one in offers.boosters(self.operator))]
        )
        return super().ask(form, status)

    def about(self) -> str:
        return f"vouchers/{self.request.POST.get('code', '')[:32]}"

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.key: str | None = None
        answer = super().post(request, **kwargs)
        if self.key is None:
            return answer
        return self.show("console/key.html", secret=self.key, back=self.back())

    def back(self) -> str:
        return reverse("admin:voucher_batches")

    def do(self, said: dict[str, Any]) -> Text:
        gives, zone = said["gives"], self.visit.zone
        terms = Terms(
            name=said["name"],
            count=said["count"],
            valid_from=periods.midnight(said["first"], zone),
            valid_until=periods.midnight(said["last"] + dt.timedelta(days=1), zone),
            amount=said["amount"] if gives == "money" else None,
            currency=self.operator.currency if gives == "money" else "",
            booster=said["booster"] if gives == "booster" else None,
            units=int(said["tokens"]) * THOUSANDTHS if gives == "units" else None,
            valid_days=said["valid_days"] if gives == "units" else None,
        )
        _batch, self.key = keeping.order(
            self.operator, said["code"], terms, by=self.by(), at=self.now
        )
        return now_("The batch is ordered.")


class OfBatch(Deed):
    roles = ROLES
    parent = "voucher_batches"
    batch: VoucherBatch

    def find(self, **kwargs: Any) -> None:
        self.batch = keeping.find_batch(self.operator, kwargs["code"])

    def about(self) -> str:
        return f"vouchers/{self.batch.code}"

    def back(self) -> str:
        return reverse("admin:voucher_batch", args=[self.batch.code])

    def facts(self) -> list[tuple[Text, Any]]:
        return [
            (_("Batch"), self.batch.code),
            (_("Each gives"), worth(self.batch)),
            (_("How many"), self.batch.count),
        ]


class Range(Why):
    first = forms.IntegerField(
        label=_("From number"),
        min_value=1,
        max_value=1_000_000,
        help_text=_("The last digits of a serial number; 1 is the first card."),
    )
    last = forms.IntegerField(
        label=_("To number"),
        min_value=1,
        max_value=1_000_000,
        help_text=_("Up to 100,000 at once."),
    )


class Codes(Why):
    key = forms.CharField(
        label=_("Key of the codes"),
        max_length=200,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("It was shown when the batch was ordered. Nobody else has it."),
    )


@page
class ShowCodes(OfBatch):
    name = "show_voucher_codes"
    address = "vouchers/<slug:code>/codes/"
    title = _("Download the codes")
    help = _("Once and never again: the file is worth what the cards are.")
    form_class, button, danger = Codes, _("Download"), True

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        self.find(**kwargs)
        form = self.form_class(request.POST)
        if not form.is_valid():
            return self.ask(form, status=422)
        try:
            with transaction.atomic():
                self.visit.note(self.name, about=self.about(), reason=form.cleaned_data["reason"])
                rows = keeping.show(
                    self.operator, self.batch.code, form.cleaned_data["key"], at=self.now
                )
        except NotFound:
            raise
        except DomainError as refused:
            form.add_error(None, in_words(refused))
            return self.ask(form, status=refused.status)
        answer = StreamingHttpResponse(
            cells.encode(_with_header(rows)), content_type="text/csv; charset=utf-8"
        )
        answer["Content-Disposition"] = f'attachment; filename="{self.batch.code}.csv"'
        return answer


def _with_header(rows: Iterator[Sequence[str]]) -> Iterator[Sequence[str]]:
    yield "serial", "code"
    yield from rows


class _OfRange(OfBatch):
    form_class = Range

    def initial(self) -> dict[str, Any]:
        return {"first": 1, "last": min(self.batch.count, 100_000)}


def _changed(number: int) -> str:
    return ngettext(
        "%(number)d voucher was changed.", "%(number)d vouchers were changed.", number
    ) % {"number": number}


@page
class Activate(_OfRange):
    name = "activate_vouchers"
    address = "vouchers/<slug:code>/activate/"
    title = _("Sell")
    help = _("From now on these can be redeemed, and what they are worth is owed.")
    button = _("They are sold")

    def do(self, said: dict[str, Any]) -> Text:
        done = keeping.activate(
            self.operator, self.batch.code, said["first"], said["last"], by=self.by(), at=self.now
        )
        return _changed(done.changed)


@page
class MakeVoid(_OfRange):
    name = "void_vouchers"
    address = "vouchers/<slug:code>/void/"
    title = _("Make void")
    help = _("These can never be redeemed. What is redeemed already stays so.")
    button, danger = _("Make void"), True

    def do(self, said: dict[str, Any]) -> Text:
        done = keeping.void(
            self.operator,
            self.batch.code,
            said["first"],
            said["last"],
            reason=said["reason"],
            by=self.by(),
            at=self.now,
        )
        return _changed(done.changed)
