"""Tables of this room, one file per subject."""

from billing.models.closes import CloseChunk
from billing.models.deferrals import Deferral, DeferralSweep
from billing.models.invoices import Invoice, InvoiceCounter, InvoiceLine, InvoiceNumber
from billing.models.ledger import Account, Entry, Posting

__all__ = [
    "Account",
    "CloseChunk",
    "Deferral",
    "DeferralSweep",
    "Entry",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLine",
    "InvoiceNumber",
    "Posting",
]
