"""How operators present themselves on documents: the only writer of letterheads."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from django.db import transaction
from PIL import Image

from billing.documents.content import COLOUR, Seller
from billing.models import InvoiceNumber, Letterhead
from subscriptions.errors import Invalid
from subscriptions.models import Operator

# A logo as it is kept: 40 points high and 170 wide at most, printed with 300 dots an inch.
_LOGO = (708, 167)
_PIXELS = 20_000_000
LOGO_BYTES = 2_000_000
_NOTHING_YET = (0, 0)


@dataclass(frozen=True, slots=True)
class Draft:
    """A letterhead as its operator gives it; `logo` is a PNG or JPEG of any size."""

    name: str
    address: str = ""
    phone: str = ""
    tax_id: str = ""
    bank: str = ""
    bank_account: str = ""
    colour: str = COLOUR
    payment_url: str = ""
    logo: bytes = b""
    ahead: str = ""


def of(operator: Operator) -> Letterhead:
    """An operator's letterhead; one that is not stored says its name alone."""
    found = Letterhead.objects.filter(operator=operator).first()
    return found or Letterhead(operator=operator, name=operator.name, colour=COLOUR)


def seller(operator: Operator) -> Seller:
    """Who sends the bill."""
    head = of(operator)
    return Seller(
        name=head.name,
        address=head.address,
        phone=head.phone,
        tax_id=head.tax_id,
        bank=head.bank,
        bank_account=head.bank_account,
        colour=head.colour,
        logo=bytes(head.logo),
        payment_url=head.payment_url,
    )


@transaction.atomic
def put(operator: Operator, draft: Draft) -> Letterhead:
    """Take a letterhead for what is made from now on. Raises Invalid for what is no picture.

    Documents are made ahead of what is issued after it was asked for.
    """
    head = Letterhead.objects.select_for_update().filter(operator=operator).first()
    if head is None:
        head = Letterhead(operator=operator)
    if draft.ahead and not head.ahead:
        last = InvoiceNumber.objects.filter(operator_id=operator.pk).order_by("-year", "-nr")
        head.ahead_year, head.ahead_nr = last.values_list("year", "nr").first() or _NOTHING_YET
    for name in ("name", "address", "phone", "tax_id", "bank", "bank_account"):
        setattr(head, name, getattr(draft, name))
    head.colour, head.payment_url, head.ahead = draft.colour, draft.payment_url, draft.ahead
    head.logo = _as_printed(draft.logo) if draft.logo else b""
    head.save()
    return head


def advance(head: Letterhead, year: int, nr: int) -> None:
    """All up to this number is made."""
    head.ahead_year, head.ahead_nr = year, nr
    Letterhead.objects.filter(operator=head.operator_id).update(ahead_year=year, ahead_nr=nr)


def _as_printed(logo: bytes) -> bytes:
    """A picture as PNG, no larger than it is printed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(logo), formats=("PNG", "JPEG"))
            if image.width * image.height > _PIXELS:
                raise Invalid("the logo has more than 20 million pixels")
            shown = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise Invalid("the logo is no PNG or JPEG that can be read") from error
    shown.thumbnail(_LOGO)
    out = io.BytesIO()
    shown.save(out, "PNG")
    return out.getvalue()
