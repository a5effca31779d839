"""Sends usage to a token billing platform, losing none, and asks it for leave.

`Client` is for gateways: it spools to disk and sends in the background. `Poster` is for usage that
already lies in a file. Both send a batch until it is answered, with the same ids, so that the
platform charges each record once. Nothing here knows the platform's code, only its HTTP API.
"""

from token_billing_client.client import Client
from token_billing_client.errors import (
    BadUrl,
    ClientError,
    Refused,
    SpoolError,
    SpoolFull,
    SpoolInUse,
    Unavailable,
)
from token_billing_client.leave import Leave, Reservation
from token_billing_client.poster import Batch, Posted, Poster
from token_billing_client.usage import MAX_BYTES, MAX_RECORDS, Charged, Rejection, Usage
from token_billing_client.windows import Totals, Window

__all__ = [
    "MAX_BYTES",
    "MAX_RECORDS",
    "BadUrl",
    "Batch",
    "Charged",
    "Client",
    "ClientError",
    "Leave",
    "Posted",
    "Poster",
    "Refused",
    "Rejection",
    "Reservation",
    "SpoolError",
    "SpoolFull",
    "SpoolInUse",
    "Totals",
    "Unavailable",
    "Usage",
    "Window",
]
