"""Lists of what is billed, paid, owed and given back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from billing import invoicing
from billing.console import sentences
from billing.models import (
    AutoTopUp,
    BankTransfer,
    CollectionCase,
    Consent,
    Dispute,
    DunningCase,
    DunningEvent,
    DunningStop,
    FapiaoRequest,
    Invoice,
    InvoiceLine,
    Order,
    Payment,
    PaymentDifference,
    PaymentIntent,
    PaymentMethod,
    PaymentTask,
    PhoneBillCharge,
    ProviderAccount,
    ProviderEvent,
    ProviderFile,
    ProviderPayment,
    Refund,
    Wallet,
    WalletBonus,
    WalletHold,
    WalletMovement,
)
from subscriptions.console.cells import Column
from subscriptions.console.lists import (
    Choice,
    List,
    Look,
    Open,
    Rows,
    begins,
    exact,
    number,
    of_subscriber,
)
from subscriptions.console.pages import Section, Text, page
from subscriptions.errors import NotFound
from subscriptions.models import Operator, Role

_WHO = _("Phone number, name, e-mail, customer number or subject")
_NUMBER_OR_WHO = _("Number, or phone number, name, customer number")


def by_invoice_number(operator: Operator, text: str) -> Q | None:
    """Numbers are kept in a table of their own, by operator and year."""
    try:
        invoice = invoicing.find(operator, text.strip().upper())
    except NotFound:
        return None
    return Q(subscriber_id=invoice.subscriber_id, id=invoice.id)


def by_event_id(operator: Operator, text: str) -> Q:
    """Of a notice: unique for each account at a company."""
    accounts = ProviderAccount.objects.filter(operator=operator).values_list("pk", flat=True)
    return Q(account_id__in=list(accounts), event_id=text)


class MoneyList(List):
    """A list that agents and finance read."""

    roles: ClassVar[Sequence[Role]] = (Role.AGENT, Role.FINANCE)
    section: ClassVar[Section | None] = Section.MONEY
    search_help: ClassVar[Text] = _WHO
    search: ClassVar[Sequence[Look]] = (of_subscriber(),)


@page
class Invoices(MoneyList):
    name, address, title = "invoices", "invoices/", _("Invoices")
    help = _("Every bill, credit note and last bill. What was issued never changes.")
    icon, order = "receipt_long", 20
    model = Invoice
    related = ("subscriber",)
    columns = (
        Column("number"),
        Column("subscriber.external_id"),
        Column("kind"),
        Column("state"),
        Column("period_start"),
        Column("gross"),
        Column("paid"),
        Column("due_at"),
    )
    search = (by_invoice_number, of_subscriber())
    search_help = _NUMBER_OR_WHO
    filters = (Choice("state"), Choice("kind"))
    empty = _("No bill was made yet: the first comes when a period has ended.")


@page
class InvoiceLines(MoneyList):
    name, address, title = "invoice_lines", "invoice-lines/", _("Lines of bills")
    help = _("What each bill of a subscriber consists of.")
    section = None
    model = InvoiceLine
    narrow = True
    sort = ("subscriber_id", "invoice_id", "nr")
    columns = (
        Column("invoice_id"),
        Column("nr"),
        Column("kind"),
        Column("description"),
        Column("units"),
        Column("net"),
        Column("tax"),
        Column("gross"),
    )
    search_within = (number("invoice_id"),)


@page
class Orders(MoneyList):
    name, address, title = "orders", "orders/", _("Orders")
    help = _("What was bought, and how far it is: paid, applied, refunded.")
    icon, order = "shopping_cart", 25
    model = Order
    related = ("subscriber",)
    columns = (
        Column("number"),
        Column("subscriber.external_id"),
        Column("kind"),
        Column("state"),
        Column("amount"),
        Column("way"),
        Column("created_at"),
        Column("paid_at"),
    )
    search = (exact("number"), of_subscriber())
    search_help = _NUMBER_OR_WHO
    filters = (Choice("state"), Choice("kind"))
    hidden = frozenset({"key"})


@page
class PaymentAttempts(MoneyList):
    name, address, title = "payment_attempts", "payment-attempts/", _("Payment attempts")
    help = _("Each attempt to pay an order, by which way, and how it ended.")
    icon, order = "payments", 30
    model = PaymentIntent
    sort = ("created_at", "subscriber_id", "order_id", "nr")
    columns = (
        Column("created_at"),
        Column("order_id"),
        Column("way"),
        Column("amount"),
        Column("state"),
        Column("reference"),
        Column("reason"),
    )
    search = (exact("key"), of_subscriber())
    filters = (Choice("state"),)
    hidden = frozenset({"action", "return_url"})


@page
class Payments(MoneyList):
    name, address, title = "payments", "payments/", _("Payments of bills")
    help = _("What was paid to which bill of a subscriber, and what was booked back.")
    icon, order = "price_check", 35
    model = Payment
    narrow = True
    sort = ("subscriber_id", "invoice_id", "nr")
    columns = (
        Column("at"),
        Column("invoice_id"),
        Column("way"),
        Column("amount"),
        Column("key"),
    )
    search = (exact("key"), of_subscriber())


@page
class Refunds(MoneyList):
    name, address, title = "refunds", "refunds/", _("Refunds")
    help = _("Money that goes back: from which order, where to, why, and how far it is.")
    icon, order = "undo", 40
    model = Refund
    related = ("subscriber",)
    columns = (
        Column("number"),
        Column("subscriber.external_id"),
        Column("amount"),
        Column("to"),
        Column("state"),
        Column("reason"),
        Column("asked_by"),
        Column("asked_at"),
    )
    search = (exact("number"), of_subscriber())
    search_help = _NUMBER_OR_WHO
    filters = (Choice("state"), Choice("to"))
    hidden = frozenset({"once", "key"})


@page
class Disputes(MoneyList):
    name, address, title = "disputes", "disputes/", _("Disputes")
    help = _("Payments that a payer wants back through bank or provider; answer before the date.")
    icon, order = "gavel", 45
    model = Dispute
    related = ("subscriber",)
    columns = (
        Column("number"),
        Column("subscriber.external_id"),
        Column("amount"),
        Column("state"),
        Column("reason"),
        Column("due_by"),
        Column("opened_at"),
    )
    search = (exact("number"), of_subscriber())
    search_help = _NUMBER_OR_WHO
    filters = (Choice("state"),)


@page
class Wallets(MoneyList):
    name, address, title = "wallets", "wallets/", _("Wallets")
    help = _("What a subscriber has in the wallet: own money, bonus, and what is held.")
    icon, order = "account_balance_wallet", 50
    model = Wallet
    narrow = True
    sort = ("subscriber_id", "currency")
    columns = (
        Column("currency"),
        Column("balance"),
        Column("bonus"),
        Column("held"),
        Column("movements"),
    )


@page
class WalletMovements(MoneyList):
    name, address, title = "wallet_movements", "wallet-movements/", _("Journal of wallets")
    help = _("Every movement of a subscriber's wallet.")
    section = None
    model = WalletMovement
    narrow = True
    sort = ("subscriber_id", "currency", "nr")
    columns = (
        Column("at"),
        Column("kind"),
        Column("amount"),
        Column("bonus"),
        Column("balance"),
        Column("note"),
    )
    filters = (Choice("kind"),)


@page
class WalletHolds(MoneyList):
    name, address, title = "wallet_holds", "wallet-holds/", _("Holds on wallets")
    help = _("Money held for something to come.")
    section = None
    model = WalletHold
    narrow = True
    sort = ("subscriber_id", "id")
    columns = (
        Column("placed_at"),
        Column("amount"),
        Column("purpose"),
        Column("state"),
        Column("expires_at"),
        Column("captured"),
    )
    filters = (Choice("state"),)
    hidden = frozenset({"key"})


@page
class WalletBonuses(MoneyList):
    name, address, title = "wallet_bonuses", "wallet-bonuses/", _("Bonuses in wallets")
    help = _("What was added to top-ups, what of it is left, and when it ends.")
    section = None
    model = WalletBonus
    narrow = True
    sort = ("subscriber_id", "currency", "nr")
    columns = (
        Column("granted_at"),
        Column("granted"),
        Column("remaining"),
        Column("spent"),
        Column("expires_at"),
    )


@page
class DunningCases(MoneyList):
    name, address, title = "dunning_cases", "dunning-cases/", _("Dunning cases")
    help = _("Who owes or owed: how far the reminders are, what comes next, and when.")
    icon, order = "notification_important", 55
    model = DunningCase
    related = ("subscriber",)
    sort = ("changed_at", "subscriber_id", "currency")
    columns = (
        Column("subscriber.external_id"),
        Column("state"),
        Column("changed_at"),
        Column("since"),
        Column("reminded"),
        Column("suspended_at"),
        Column("next_at"),
    )
    filters = (Choice("state"), Open("next_at", _("No further step"), _("A step to come")))
    empty = _("Nobody has been reminded of a debt.")


@page
class DunningEvents(MoneyList):
    name, address, title = "dunning_events", "dunning-events/", _("Dunning steps")
    help = _("What was done about a subscriber's debts.")
    section = None
    model = DunningEvent
    narrow = True
    sort = ("subscriber_id", "currency", "nr")
    columns = (
        Column("at"),
        Column("kind"),
        Column("invoice_id"),
        Column("reason", says=sentences.said),
        Column("done_at"),
    )


@page
class DunningStops(MoneyList):
    name, address, title = "dunning_stops", "dunning-stops/", _("Dunning stops")
    help = _("Whose dunning was stopped, of which invoice where it is disputed, and why.")
    icon, order = "front_hand", 60
    model = DunningStop
    related = ("subscriber",)
    columns = (
        Column("subscriber.external_id"),
        Column("invoice_id"),
        Column("starts_at"),
        Column("ends_at"),
        Column("reason"),
    )
    filters = (Open("ends_at", _("Stopped"), _("Resumed")),)


@page
class CollectionCases(MoneyList):
    name, address, title = "collection_cases", "collection-cases/", _("Collections under way")
    help = _("Renewals and bills that are collected by a saved way, and when the next attempt is.")
    icon, order = "autorenew", 62
    model = CollectionCase
    sort = ("next_at", "subscriber_id", "kind", "about")
    columns = (
        Column("next_at"),
        Column("kind"),
        Column("state"),
        Column("next_way"),
        Column("due_at"),
        Column("steps"),
    )
    empty = _("Nothing is being collected.")

    def rows(self) -> Rows:
        return super().rows().filter(next_at__isnull=False)


@page
class BankTransfers(MoneyList):
    name, address, title = "bank_transfers", "bank-transfers/", _("Bank transfers")
    help = _("What came to the carrier's account, and whose payment it was taken for.")
    roles = (Role.FINANCE,)
    icon, order = "account_balance", 65
    model = BankTransfer
    columns = (
        Column("reference"),
        Column("amount"),
        Column("payer"),
        Column("received_at"),
        Column("state"),
        Column("cause"),
        Column("matched_at"),
    )
    search = (exact("reference"),)
    search_help = _("The bank's reference")
    filters = (Choice("state"),)


@page
class ProviderPayments(MoneyList):
    name, address, title = "provider_payments", "provider-payments/", _("Payments at providers")
    help = _("What payment companies told us of, and what became of it.")
    roles = (Role.FINANCE,)
    icon, order = "credit_card", 70
    model = ProviderPayment
    sort = ("at", "id")
    columns = (
        Column("at"),
        Column("reference"),
        Column("way"),
        Column("amount"),
        Column("became"),
        Column("order_id"),
    )
    search = (exact("reference"),)
    search_help = _("The provider's reference")
    filters = (Choice("became"),)


@page
class PaymentTasks(MoneyList):
    name, address, title = "payment_tasks", "payment-tasks/", _("Payments to look at")
    help = _("What came from payment companies and fits nothing here: somebody has to decide.")
    roles = (Role.FINANCE,)
    icon, order = "task_alt", 72
    model = PaymentTask
    columns = (
        Column("id"),
        Column("cause"),
        Column("detail"),
        Column("state"),
        Column("created_at"),
        Column("resolved_at"),
    )
    search = (number("id"),)
    search_help = _("The number of a task")
    filters = (Choice("state"),)
    empty = _("Nothing waits for a decision.")


@page
class ProviderEvents(MoneyList):
    name, address, title = "provider_events", "provider-events/", _("Notices of providers")
    help = _("Each notice that a payment company sent, as it came. Search by its event id.")
    roles = (Role.FINANCE, Role.OPERATIONS)
    icon, order = "move_to_inbox", 74
    model = ProviderEvent
    columns = (
        Column("event_id"),
        Column("kind"),
        Column("state"),
        Column("attempts"),
        Column("reason"),
        Column("received_at"),
    )
    search = (by_event_id,)
    search_help = _("The event's id")
    hidden = frozenset({"body"})


@page
class ProviderFiles(MoneyList):
    name, address, title = "provider_files", "provider-files/", _("Files of providers")
    help = _("Settlement files that were imported.")
    roles = (Role.FINANCE,)
    icon, order = "folder_open", 76
    model = ProviderFile
    columns = (
        Column("name"),
        Column("account"),
        Column("first_day"),
        Column("last_day"),
        Column("rows"),
        Column("lines"),
        Column("imported_by"),
        Column("imported_at"),
    )
    search = ()


@page
class Differences(MoneyList):
    name, address, title = "payment_differences", "payment-differences/", _("Payment differences")
    help = _("Where a provider's books and ours say different things.")
    roles = (Role.FINANCE,)
    icon, order = "difference", 78
    model = PaymentDifference
    columns = (
        Column("about"),
        Column("account"),
        Column("day"),
        Column("kind"),
        Column("theirs"),
        Column("our_amount"),
        Column("amount"),
        Column("state"),
        Column("owner"),
    )
    search = (begins("about"),)
    search_help = _("How the reference begins")
    filters = (Choice("state"),)
    empty = _("The providers' books and ours agree.")


@page
class PhoneBillCharges(MoneyList):
    name, address, title = "phone_bill_charges", "phone-bill-charges/", _("Charges to phone bills")
    help = _("What was put on the subscribers' phone bills.")
    roles = (Role.FINANCE,)
    section = None
    model = PhoneBillCharge
    narrow = True
    sort = ("subscriber_id", "order_id")
    columns = (
        Column("at"),
        Column("order_id"),
        Column("amount"),
        Column("msisdn"),
        Column("sequence"),
        Column("nr"),
    )


@page
class SavedMethods(MoneyList):
    name, address, title = "payment_methods", "payment-methods/", _("Saved payment methods")
    help = _("Cards and accounts that a subscriber saved at a payment company.")
    section = None
    model = PaymentMethod
    narrow = True
    sort = ("subscriber_id", "id")
    columns = (
        Column("brand"),
        Column("last4"),
        Column("state"),
        Column("is_default"),
        Column("saved_at"),
        Column("removed_at"),
    )
    hidden = frozenset({"key", "customer", "reference"})


@page
class Consents(MoneyList):
    name, address, title = "consents", "consents/", _("Consents")
    help = _("What a subscriber agreed to be charged for, in which words, and what was withdrawn.")
    section = None
    model = Consent
    narrow = True
    sort = ("subscriber_id", "id")
    columns = (
        Column("number"),
        Column("kind"),
        Column("channel"),
        Column("monthly_cap"),
        Column("given_at"),
        Column("withdrawn_at"),
    )
    search = (exact("number"), of_subscriber())


@page
class AutoTopUps(MoneyList):
    name, address, title = "auto_top_ups", "auto-top-ups/", _("Automatic top-ups")
    help = _("When a subscriber's wallet is filled by itself, and from where.")
    section = None
    model = AutoTopUp
    narrow = True
    sort = ("subscriber_id", "id")
    columns = (
        Column("id"),
        Column("way"),
        Column("agreed_at"),
        Column("failures"),
        Column("ended_at"),
        Column("ended_by"),
    )
    hidden = frozenset({"method"})


@page
class FapiaoRequests(MoneyList):
    name, address, title = "fapiao_requests", "fapiao-requests/", _("E-fapiao")
    help = _("Invoices for the tax office: what was asked for, and what was issued.")
    icon, order = "description", 80
    model = FapiaoRequest
    columns = (
        Column("request_id"),
        Column("number"),
        Column("kind"),
        Column("state"),
        Column("buyer_name"),
        Column("gross"),
        Column("requested_at"),
        Column("problem"),
    )
    search = (exact("request_id"), exact("number"), of_subscriber())
    search_help = _NUMBER_OR_WHO
    filters = (Choice("state"),)
    hidden = frozenset({"seller", "lines"})
