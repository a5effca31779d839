"""Tables of this room, one file per subject."""

from billing.models.charge_files import ChargeFile, ChargeLine
from billing.models.closes import CloseChunk
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
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine, InvoiceNumber
from billing.models.ledger import Account, Entry, Posting
from billing.models.payments import Payment

__all__ = [
    "Account",
    "ChargeFile",
    "ChargeLine",
    "CloseChunk",
    "CostCard",
    "CostDay",
    "CostEntry",
    "CostPrice",
    "Deferral",
    "DeferralSweep",
    "Document",
    "DunningCase",
    "DunningCursor",
    "DunningEvent",
    "DunningPolicy",
    "DunningStop",
    "Entry",
    "FapiaoItem",
    "FapiaoRequest",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "InvoiceNumber",
    "Letterhead",
    "Payment",
    "Posting",
    "ReminderCursor",
    "Settlement",
    "SettlementLine",
    "Supplier",
    "SupplierGateway",
]
