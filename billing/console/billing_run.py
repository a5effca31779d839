"""The month close: start, watch, pause, resume, mend and retry; the books."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from djmoney.money import Money

from billing import closing, ledger, tasks
from billing.console import sentences
from billing.console.inline import Inline, who
from subscriptions.console import words
from subscriptions.console.pages import Page, Section, page
from subscriptions.errors import Invalid
from subscriptions.models import Role, Subscriber

_SHOWN = 12
_FAILURES = 100


@page
class BillingRun(Page):
    name = "billing_run"
    address = "billing-run/"
    title = gettext_lazy("Billing run")
    help = gettext_lazy(
        "Periods that are over are billed by themselves, in parts. A part is billed whole or not at"
        " all; a customer who cannot be billed waits here with the reason."
    )
    section, icon = Section.MONEY, "receipt_long"
    order = 20
    roles = (Role.FINANCE,)
    template_name = "console/billing_run.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        operator = self.operator
        failures = closing.failures(operator)
        names = dict(
            Subscriber.objects.filter(
                pk__in=[one.first_subscriber for one in failures[:_FAILURES]]
            ).values_list("pk", "external_id")
        )
        progress = closing.progress(operator)[:_SHOWN]
        balances = list(ledger.trial_balance(operator.pk, at=self.now))
        return {
            "pause": closing.paused(operator),
            "ended_by": closing.ended_by(operator, at=self.now),
            "progress": progress,
            "runs": any(one.left for one in progress),
            "failures": [
                (one, names.get(one.first_subscriber, ""), sentences.said(one.reason))
                for one in failures[:_FAILURES]
            ],
            "failed": len(failures),
            "balances": [
                (
                    words.account(one.account),
                    one.account,
                    Money(one.debit, one.currency),
                    Money(one.credit, one.currency),
                    Money(one.balance, one.currency),
                )
                for one in balances
            ],
            "changes": self.visit.may(BillingDeed.permission()),
        }


@page
class BillingDeed(Inline):
    """Start, pause, resume, retry."""

    name = "billing_run_do"
    address = "billing-run/do/"
    title = gettext_lazy("Start, pause, resume, retry")
    roles = (Role.FINANCE,)
    parent = "billing_run"

    def act(self, **kwargs: Any) -> str:
        operator, at, by = self.operator, self.now, who(self.visit)
        match self.text("do"):
            case "start":
                closing.plan(operator, at=at)
                waiting = closing.waiting(operator)
                if not waiting:
                    return _("Nothing is due.")
                self._ring()
                return ngettext("%(many)d part waits.", "%(many)d parts wait.", waiting) % {
                    "many": waiting
                }
            case "pause":
                closing.pause(operator, by=by, reason=self.reason(), at=at)
                return _("It is paused: what was begun is finished.")
            case "resume":
                closing.resume(operator, by=by, at=at)
                self._ring()
                return _("It goes on.")
            case "retry":
                one = self.number("subscriber") or None
                many = closing.retry_failed(operator, subscriber_id=one)
                self._ring()
                return ngettext(
                    "%(many)d customer is tried again.", "%(many)d customers are tried again.", many
                ) % {"many": many}
        raise Invalid("do is start, pause, resume or retry")

    def _ring(self) -> None:
        """For workers, once it is committed; without them the next bell of beat is heard."""
        rung = partial(tasks.ring_for_close, self.operator.pk)
        transaction.on_commit(rung, robust=True)
