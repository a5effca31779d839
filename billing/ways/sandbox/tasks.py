"""The sandbox's bells: what settles later, and notices on their way."""

from __future__ import annotations

import logging

from celery import shared_task
from django.conf import settings

from billing import inbox
from billing.models import ProviderAccount, ProviderSecret
from billing.ways import accounts, known
from billing.ways.provider import Unreadable, Unverified
from billing.ways.sandbox import company, notices
from subscriptions import clock

log = logging.getLogger(__name__)


@shared_task
def settle() -> None:
    """Settle payments and refunds whose time has come, by their merchant's clock."""
    if not settings.SANDBOX_PAYMENTS:
        return
    waiting = ProviderAccount.objects.filter(pk__in=company.accounts_with_something_due())
    for account in waiting.select_related("operator").order_by("pk"):
        while company.settle_due(account.pk, at=clock.now(account.operator)):
            pass


@shared_task
def send_notices() -> None:
    """Hand notices to our own inbox, as the door for notices would.

    Not over HTTP: the bytes and their signature are checked by the same function, and there is no
    address of ours to be set, reached through a proxy, or answered by a web server that is full.
    """
    if not settings.SANDBOX_PAYMENTS:
        return
    wall = clock.wall()
    for notice in notices.due(at=wall):
        account = ProviderAccount.objects.select_related("operator").get(pk=notice.account)
        at = clock.now(account.operator)
        try:
            secrets = accounts.secrets_of(account, ProviderSecret.Kind.WEBHOOK, at=at)
            body = notice.body.encode()
            headers = notices.sign(notice.pk, body, secrets[0], at=wall)
            verified = known.partner_of(account, at=at).verify(headers, body, wall=wall)
        except (Unreadable, Unverified, IndexError) as error:
            log.warning("notice %s of the sandbox was not taken: %r", notice.pk, error)
            notices.refused(notice, at=wall)
        else:
            inbox.keep(account, verified, body, received_at=at)
            notices.taken(notice)
