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
from billing.models.documents import Document, Letterhead
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine, InvoiceNumber
from billing.models.ledger import Account, Entry, Posting

__all__ = [
    "Account",
    "ChargeFile",
    "ChargeLine",
    "CloseChunk",
    "CostCard",
    "CostDay",
    "CostEntry",
    "CostPrice",
    "Document",
    "Entry",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "InvoiceNumber",
    "Letterhead",
    "Posting",
    "Settlement",
    "SettlementLine",
    "Supplier",
    "SupplierGateway",
]
