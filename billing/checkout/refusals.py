"""Why something could not be bought or paid, as a person can make something of it."""

from __future__ import annotations

from django.utils.translation import gettext as _

from subscriptions.errors import DomainError


def reason_of(error: DomainError) -> str:
    """In the reader's language; causes that are for machines are told as one."""
    said = {
        "plan_held": _("You hold a plan already: change that one."),
        "unknown_plan": _("This plan is not on sale."),
        "unknown_booster": _("This booster is not on sale."),
        "not_an_upgrade": _("This plan costs or brings less: it can begin with the next period."),
        "period_unpaid": _("Pay the period that runs first."),
        "trial_used": _("You have had this trial already."),
        "order_expired": _("This order has expired. Order again."),
        "order_paid": _("This order is paid already."),
        "order_closed": _("This order can be paid no more. Order again."),
        "order_of_period": _("This order follows your plan: change or cancel that."),
        "nothing_due": _("Nothing is due on this invoice."),
        "insufficient_funds": _("There is not enough in your wallet."),
        "subscription_ended": _("This plan has ended."),
        "not_pausable": _("This plan cannot be paused now."),
        "amount_differs": _("By now another amount is due. Order again."),
        "no_consent": _("You have not agreed to be charged with the phone bill."),
        "no_phone_number": _("We know no phone number of yours that a bill goes to."),
        "phone_bill_cap": _("This is more than your phone bill may carry this month."),
        "provider_unavailable": _(
            "The payment company does not answer. Try again, or pay in another way."
        ),
        "unknown_way": _("This order cannot be paid in this way."),
        "unknown_method": _("This card is not saved any more."),
        "no_saved_methods": _("No card can be saved here."),
        "method_removed": _("This card is not saved any more."),
        "nothing_to_refund": _("Of this order nothing can go back."),
        "not_paid": _("This order was not paid."),
        "disputed": _("The payment of this order is disputed at its bank."),
        "subscriber_merged": _("This account has become another: nothing can be bought with it."),
    }
    return said.get(error.cause, _("That is not possible now."))


def reason_of_attempt(reason: str) -> str:
    """Why an attempt came to nothing; what people can make nothing of is not said."""
    said = {
        "insufficient_funds": _("There was not enough money."),
        "card_declined": _("The card was declined by its bank."),
        "expired_card": _("The card has expired."),
        "authentication_required": _("The bank of the card wants to ask its holder first."),
        "authentication_failed": _("The bank's question was not confirmed."),
        "payer_cancelled": _("You cancelled the payment."),
        "expired": _("It was not paid in time."),
    }
    return said.get(reason, "")
