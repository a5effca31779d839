"""Tables of this room, one file per subject."""

from billing.models.charge_files import ChargeFile, ChargeLine
from billing.models.closes import CloseChunk, FinalSweep
from billing.models.collecting import (
    CollectionCase,
    CollectionPolicy,
    CollectionStep,
    Consent,
)
from billing.models.corrections import Approval, CorrectionPolicy
from billing.models.costs import (
    CostCard,
    CostDay,
    CostEntry,
    CostPrice,
    Settlement,
    SettlementLine,
    Supplier,
    SupplierGateway,
)
from billing.models.deferrals import Deferral, DeferralSweep
from billing.models.documents import Document, Letterhead
from billing.models.dunning import (
    DunningCase,
    DunningCursor,
    DunningEvent,
    DunningPolicy,
    DunningStop,
    ReminderCursor,
)
from billing.models.fapiao import FapiaoItem, FapiaoRequest
from billing.models.figures import DayFigures
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine, InvoiceNumber
from billing.models.ledger import Account, Entry, Posting
from billing.models.orders import Order, OrderStep, PaymentIntent
from billing.models.payments import Payment
from billing.models.phone_bills import PhoneBillAnswer, PhoneBillCharge
from billing.models.providers import (
    PaymentTask,
    ProviderAccount,
    ProviderEvent,
    ProviderPayment,
    ProviderSecret,
)
from billing.models.refunds import Dispute, DisputeStep, Refund, RefundStep
from billing.models.transfers import BankTransfer
from billing.models.wallets import Wallet, WalletMovement

__all__ = [
    "Account",
    "Approval",
    "BankTransfer",
    "ChargeFile",
    "ChargeLine",
    "CloseChunk",
    "CollectionCase",
    "CollectionPolicy",
    "CollectionStep",
    "Consent",
    "CorrectionPolicy",
    "CostCard",
    "CostDay",
    "CostEntry",
    "CostPrice",
    "DayFigures",
    "Deferral",
    "DeferralSweep",
    "Dispute",
    "DisputeStep",
    "Document",
    "DunningCase",
    "DunningCursor",
    "DunningEvent",
    "DunningPolicy",
    "DunningStop",
    "Entry",
    "FapiaoItem",
    "FapiaoRequest",
    "FinalSweep",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "InvoiceNumber",
    "Letterhead",
    "Order",
    "OrderStep",
    "Payment",
    "PaymentIntent",
    "PaymentTask",
    "PhoneBillAnswer",
    "PhoneBillCharge",
    "Posting",
    "ProviderAccount",
    "ProviderEvent",
    "ProviderPayment",
    "ProviderSecret",
    "Refund",
    "RefundStep",
    "ReminderCursor",
    "Settlement",
    "SettlementLine",
    "Supplier",
    "SupplierGateway",
    "Wallet",
    "WalletMovement",
]
