"""Tables of this room, one file per subject."""

from billing.models.closes import CloseChunk
from billing.models.documents import Document, Letterhead
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine, InvoiceNumber
from billing.models.ledger import Account, Entry, Posting

__all__ = [
    "Account",
    "CloseChunk",
    "Document",
    "Entry",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "InvoiceNumber",
    "Letterhead",
    "Posting",
]
