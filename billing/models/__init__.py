"""Tables of this room, one file per subject."""

from billing.models.closes import CloseChunk
from billing.models.dunning import (
    DunningCase,
    DunningCursor,
    DunningEvent,
    DunningPolicy,
    DunningStop,
)
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine, InvoiceNumber
from billing.models.ledger import Account, Entry, Posting
from billing.models.payments import Payment

__all__ = [
    "Account",
    "CloseChunk",
    "DunningCase",
    "DunningCursor",
    "DunningEvent",
    "DunningPolicy",
    "DunningStop",
    "Entry",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "InvoiceNumber",
    "Payment",
    "Posting",
]
