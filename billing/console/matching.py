"""Money that came and belongs to nobody yet: bank transfers, unclear payments, differences."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from djmoney.money import Money

from billing import receiving, transfers
from billing.console.inline import Inline, who
from billing.models import BankTransfer, PaymentDifference, PaymentTask
from billing.provider_books import differing
from subscriptions import registry
from subscriptions.console import masks
from subscriptions.console.pages import Page, Section, page
from subscriptions.errors import Invalid
from subscriptions.models import Role

_SHOWN = 50
RESOLUTIONS = {
    "fee": gettext_lazy("The provider's fee"),
    "arrived": gettext_lazy("Arrived at the bank"),
    "known": gettext_lazy("Known, nothing to book"),
    "written_off": gettext_lazy("Write off"),
    "unclear_payment": gettext_lazy("An unclear payment"),
}
KINDS = {
    "missing_here": gettext_lazy("Missing in our books"),
    "missing_there": gettext_lazy("Missing at the provider"),
    "amount_differs": gettext_lazy("Another amount"),
    "fees": gettext_lazy("Fees of a day"),
    "payout": gettext_lazy("Payout"),
}
ACTIONS = {
    "wallet": gettext_lazy("Into the wallet"),
    "refund": gettext_lazy("Back to the payer"),
    "note": gettext_lazy("Done elsewhere"),
}


@page
class Matching(Page):
    name = "payment_matching"
    address = "payment-matching/"
    title = gettext_lazy("Payment matching")
    help = gettext_lazy(
        "Money that came and is not booked as what it is for: say what it paid, or what became of"
        " it."
    )
    section, icon = Section.MONEY, "join_inner"
    order = 30
    roles = (Role.FINANCE,)
    template_name = "console/payment_matching.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        operator = self.operator
        waiting = BankTransfer.objects.filter(
            operator=operator, state=BankTransfer.State.UNMATCHED
        ).order_by("pk")
        unclear = (
            PaymentTask.objects.filter(operator=operator)
            .exclude(state=PaymentTask.State.RESOLVED)
            .select_related("payment__account", "event__account")
            .order_by("pk")
        )
        differences = (
            PaymentDifference.objects.filter(operator=operator)
            .exclude(state=PaymentDifference.State.RESOLVED)
            .order_by("pk")
        )
        return {
            "transfers": [
                (
                    one,
                    Money(one.amount, one.currency),
                    masks.name(one.payer),
                    masks.name(one.remark),
                )
                for one in waiting[:_SHOWN]
            ],
            "tasks": list(unclear[:_SHOWN]),
            "differences": [
                (one, KINDS[one.kind], Money(one.amount, one.currency))
                for one in differences[:_SHOWN]
            ],
            "actions": ACTIONS.items(),
            "resolutions": RESOLUTIONS.items(),
            "changes": self.visit.may(MatchingDeed.permission()),
        }


@page
class MatchingDeed(Inline):
    """Match a transfer, resolve an unclear payment or a difference."""

    name = "payment_matching_do"
    address = "payment-matching/do/"
    title = gettext_lazy("Match and resolve")
    roles = (Role.FINANCE,)
    parent = "payment_matching"
    alone = True

    def act(self, **kwargs: Any) -> str:
        operator, at, by = self.operator, self.now, who(self.visit)
        match self.text("do"):
            case "match":
                transfers.match(operator, self.number("id"), self._pays(), at=at)
                return _("The transfer is matched.")
            case "task":
                said = self.text("subscriber")
                receiving.resolve(
                    operator,
                    self.number("id"),
                    self._one_of("action", ACTIONS),
                    note=self.reason(),
                    subscriber_id=registry.find(operator, said).pk if said else None,
                    at=at,
                )
                return _("It is resolved.")
            case "difference":
                found = differing.resolve(
                    operator,
                    self.number("id"),
                    self._one_of("resolution", RESOLUTIONS),
                    note=self.reason(),
                    by=by,
                    at=at,
                )
                if found.state == PaymentDifference.State.WAITING:
                    return _("It is above the limit: another person has been asked to approve it.")
                return _("It is resolved.")
        raise Invalid("do is match, task or difference")

    def _pays(self) -> transfers.Pays:
        said = self.text("number", 64)
        if not said:
            raise Invalid(_("Say what it pays."))
        match self.text("pays"):
            case "order":
                return transfers.Pays(order=said)
            case "invoice":
                return transfers.Pays(invoice=said)
        return transfers.Pays(wallet=registry.find(self.operator, said).pk)

    def _one_of(self, name: str, known: dict[str, Any]) -> str:
        said = self.text(name)
        if said not in known:
            raise Invalid(_("Say what becomes of it."))
        if not self.reason():
            raise Invalid(_("Say why."))
        return said
