"""Agreeing to what is collected by itself, and taking that back: the consent, and what follows from
it for what is being collected, at once."""

from __future__ import annotations

import datetime as dt

from django.db import transaction

from billing import consents
from billing.collecting import cases
from billing.consents import Said
from billing.models import Consent
from subscriptions.models import Operator


@transaction.atomic
def agree(operator: Operator, subscriber_id: int, said: Said, *, at: dt.datetime) -> Consent:
    """Keep a consent, and collect what is asked for already. Raises what `consents.give` does."""
    given = consents.give(operator, subscriber_id, said, at=at)
    cases.begin_for(operator, subscriber_id, at=at)
    return given


@transaction.atomic
def take_back(
    operator: Operator, subscriber_id: int, number: str, *, channel: str, at: dt.datetime
) -> Consent:
    """Withdraw a consent; what is answered is the receipt. Again changes nothing. Raises
    NotFound."""
    receipt = consents.withdraw(operator, subscriber_id, number, channel=channel, at=at)
    cases.look_again(subscriber_id, at=at)
    return receipt
