"""Fixtures of several files, and which tests stay together."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.db import connection
from django.test import override_settings
from rest_framework.test import APIClient
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from metering import rate_limits
from subscriptions import warm
from subscriptions.models import Operator, Subscriber
from tests import days
from tests.browser import browser, platform, window
from tests.factories import (
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import Gateway

__all__ = ["browser", "platform", "window"]

# No example fails because the machine did something else meanwhile.
hypothesis.settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_machine")


@pytest.fixture(scope="session", autouse=True)
def _patience() -> Iterator[None]:
    """Where the product goes on without an answer that is late, a test waits for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rate_limits, "_PATIENCE_SECONDS", 60)
        yield


@pytest.fixture(scope="session", autouse=True)
def _static_files_as_built() -> Iterator[None]:
    """Pages name their static files without the hashes that collecting gives them."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    with override_settings(STORAGES={**settings.STORAGES, "staticfiles": plain}):
        yield


# What no TRUNCATE empties, but that of a test which was not rolled back.
KEPT = (
    *("billing_account", "billing_posting", "billing_entry"),
    *("billing_invoice", "billing_invoiceline", "billing_invoicenumber"),
    *("billing_chargefile", "billing_chargeline"),
    *("billing_costentry", "billing_settlement", "billing_settlementline"),
    "billing_document",
    "subscriptions_auditentry",
    *("billing_payment", "billing_dunningevent"),
    *("billing_order", "billing_orderstep", "billing_paymentintent"),
    *("billing_wallet", "billing_walletmovement", "billing_banktransfer"),
    *("billing_voucherbatch", "billing_voucher", "billing_voucherstep"),
    *("billing_refund", "billing_refundstep", "billing_dispute", "billing_disputestep"),
    *("billing_complaint", "billing_complaintmessage"),
    *("billing_walletbonus", "billing_walletbonusentry", "billing_wallethold"),
    *("billing_topuppolicy", "billing_bonusrule", "billing_autotopup", "billing_autotopuprun"),
    *("billing_provideraccount", "billing_providersecret", "billing_providerevent"),
    *("billing_providerpayment", "billing_paymenttask", "billing_paymentmethod"),
    *("billing_providerpayment", "billing_paymenttask"),
    *("billing_phonebillcharge", "billing_phonebillanswer"),
    *("billing_consent", "billing_collectionpolicy", "billing_collectionstep"),
    "billing_planreceipt",
    *("billing_providerfile", "billing_providerline", "billing_paymentdifference"),
)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """No test of this process's own asks what a commit leaves on the disk."""
    options = connection.settings_dict["OPTIONS"]
    options["options"] += " -c synchronous_commit=off"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The database, whose tables may be emptied; at its end nothing may be connected to it."""
    with django_db_blocker.unblock():
        for table in KEPT:
            with connection.cursor() as cursor:
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER kept")
        days.begin()
    with days.committed():
        yield
    warm.close()
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        # A thread of the server for browsers keeps its connection until the browser's next request.
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture(scope="module", autouse=True)
def _few_days(django_db_blocker: Any) -> Iterator[None]:
    """A file begins with few day partitions, whatever those before it were about."""
    yield
    with django_db_blocker.unblock():
        days.drop_many()


# Whom most tests are about; a file that needs others has its own by these names.


@pytest.fixture
def operator() -> Operator:
    return make_operator()


@pytest.fixture
def gateway(operator: Operator) -> Gateway:
    return Gateway(operator)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    """`s-1`, called `user-s-1`, with 10 million units until the end of June; all weights are 1."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    return subscriber


class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
    """A file that names an `xdist_group` goes to one worker, all other tests to any.

    xdist 3.8 marks grouped tests by their ids, which pytest 9.2 does not let it change: its own
    `--dist loadgroup` groups nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group_of(nodeid.partition("::")[0]) or nodeid


@functools.cache
def _group_of(file: str) -> str:
    source = (Path(__file__).parent.parent / file).read_text()
    found = re.search(r'xdist_group\("(\w+)"\)', source)
    return found[1] if found else ""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    return ByGroup(config, log)
