"""Another operator's key sees nothing and changes nothing, at any door there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from rest_framework.test import APIClient

from billing import disputes, invoicing
from billing.anomalies import cases
from billing.anomalies.finding import Finding
from billing.interchange import exports
from billing.models import AnomalyCase, Approval, Invoice, PaymentDifference, PaymentIntent
from billing.ways.provider import About, Answer, Event, Fate
from metering import rollups
from metering.models import QuarantinedRecord, SuspectedRepeat, UsageWindow
from subscriptions import lifecycle
from subscriptions.models import Operator
from tests import adapter_fixtures as sent
from tests.asking import reserve
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.providers import saved_card, unclear_payment
from tests.usage import DAY, GATEWAYS, Gateway, counted, get, post, put, record, used
from tests.vouchers import TERMS, make_all, order_batch, shown_codes

pytestmark = pytest.mark.django_db

SPAN = "from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00Z"
SECRET = "THEIRS"  # stands in every name of the other operator's


AUTO_TOP_UP = {
    "threshold": "9.00",
    "amount": "9.00",
    "daily_limit": "9.00",
    "monthly_limit": "9.00",
    "way": "card",
    "method": "1",
    "text": SECRET,
    "text_version": "1",
    "language": "en",
    "channel": "portal",
}


class Theirs:
    """An operator with one of everything."""

    def __init__(self) -> None:
        self.operator = make_operator("theirs")
        self.api = client_for(make_key(self.operator))
        plan = make_plan(self.operator, name=f"{SECRET} plan")
        assert put(self.api, "boosters/booster", booster(f"{SECRET} booster")).status_code == 201
        self.subscriber = make_subscriber(self.operator)
        put(self.api, "subscribers/s-1", {"name": f"{SECRET} one", "email": f"{SECRET}@a.org"})
        self.subscription = subscribe(self.subscriber, plan)
        coupon = {"name": f"{SECRET} coupon", "percent": "50"}
        assert put(self.api, "coupons/light", coupon).status_code == 201
        lifecycle.sell_booster(self.operator, self.subscriber.pk, "booster", at=NOW)
        lifecycle.give(self.subscriber.pk, units=1000, valid_until=NOW + DAY, reason=SECRET, at=NOW)
        self.gateway = Gateway(self.operator, name=f"{SECRET} gateway")
        self.gateway.charge(record(f"{SECRET}-1"), record(f"{SECRET}-2", subject=f"{SECRET}-who"))
        path = f"subscribers/s-1/usage-records/{SECRET}-1/correct"
        corrected = post(self.api, path, {"reason": SECRET, "input_tokens": 90})
        assert corrected.status_code == 200, corrected.content
        policy: dict[str, Any] = {"approval_limit": "0.00", "over_charge_factor": "1"}
        assert put(self.api, "correction-policy", policy).status_code == 200
        gift = {"kind": "recycle", "subscriber": "s-1", "subjects": ["user-s-1"]}
        asked = post(self.api, "handovers", gift | {"balance": "forfeit", "reason": SECRET})
        assert asked.status_code == 202, asked.content
        self.handover_id = asked.json()["id"]
        policy["approval_limit"] = None
        assert put(self.api, "correction-policy", policy).status_code == 200
        reserve(self.gateway, "ask-1")
        for name in ("t-1", "t-2"):
            event = {"event": sent.lago(name)}  # without a time, as from LiteLLM: made-up ids
            call(self.gateway.client, ("POST", ""), "/api/v1/events", event)
        counters = {
            "window_start": (NOW - DAY).isoformat(),
            "window_end": NOW.isoformat(),
            **dict.fromkeys(("requests", "input_tokens", "output_tokens"), 9),
        }
        self.gateway.send(counters, path="/api/v1/usage-counters")
        order = {"since": (NOW - DAY).isoformat(), "until": (NOW + DAY).isoformat()}
        order |= {"rate_card": "standard", "reason": SECRET}
        self.run = post(self.api, "re-ratings", order).json()
        with transaction.atomic():
            invoicing.bill(
                self.operator,
                first_subscriber=self.subscriber.pk,
                last_subscriber=self.subscriber.pk,
                ended_by=NOW + 30 * DAY,
                at=NOW,
            )
        self.number = Invoice.objects.get().number
        assert put(self.api, "letterhead", {"name": SECRET}).status_code == 200
        ordered = post(self.api, "subscribers/s-1/orders", {"kind": "top_up", "amount": "7.00"})
        self.order = ordered.json()["number"]
        transfer = {"reference": SECRET, "amount": "7.00", "payer": SECRET}
        self.transfer = post(self.api, "transfers", transfer).json()["id"]
        paid = post(self.api, "subscribers/s-1/orders", {"kind": "top_up", "amount": "6.00"})
        pays = {"reference": SECRET[:4], "amount": "6.00", "pays": {"order": paid.json()["number"]}}
        assert post(self.api, "transfers", pays).json()["state"] == "matched"
        path = f"orders/{paid.json()['number']}/refunds"
        self.refund = post(self.api, path, {"amount": "2.00", "reason": SECRET}).json()["number"]
        intent = PaymentIntent.objects.get(state="succeeded")
        said = Answer(Fate.WAITING, amount=intent.amount, reason=SECRET)
        notice = Event("ev", About.DISPUTE, intent.key, SECRET, said, NOW)
        dispute = disputes.take_dispute(self.operator, notice, at=NOW)
        assert dispute is not None
        self.dispute = dispute.number
        fill = {"reference": f"{SECRET}-2", "amount": "5.00", "pays": {"wallet": "s-1"}}
        assert post(self.api, "transfers", fill | {"payer": SECRET}).status_code == 201
        hold = {"amount": "3.00", "purpose": SECRET}
        self.hold = post(self.api, "subscribers/s-1/wallet/holds", hold).json()["id"]
        offered = {"fixed": [], "free": {"least": "0.01", "most": "99.00"}}
        assert put(self.api, "top-up-policy", offered).status_code == 200
        saved = saved_card(self.operator, self.subscriber.pk, SECRET)
        agreed = AUTO_TOP_UP | {"method": str(saved.pk)}
        assert put(self.api, "subscribers/s-1/auto-top-up", agreed).status_code == 200
        self.auto_top_up = agreed
        agreed = {"text": SECRET, "text_version": "1", "language": "zh-CN", "channel": "app"}
        said = post(self.api, "subscribers/s-1/consents", {"kind": "auto_renew", **agreed})
        self.consent = said.json()["number"]
        moved = f"t-1,2026-06-10 04:00:00,cny,9.00,0.00,9.00,charge,{SECRET}"
        heading = "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category"
        self.api.post(
            f"/api/v1/provider-files?layout=stripe&name={SECRET}",
            f"{heading},source_id\n{moved}\n",
            content_type="text/csv",
        )
        self.difference = PaymentDifference.objects.get(kind="missing_here").pk
        # Only this credit waits for somebody.
        policy["approval_limit"] = "1.00"
        assert put(self.api, "correction-policy", policy).status_code == 200
        credit = {"amount": "2.00", "reason": SECRET}
        assert post(self.api, f"invoices/{self.number}/credit", credit).status_code == 202
        policy["approval_limit"] = None
        assert put(self.api, "correction-policy", policy).status_code == 200
        self.approval = Approval.objects.get(kind="credit_note")
        rate = {"rate": "0.09", "effective_from": "2027-01-01"}
        assert put(self.api, f"tax-rates/{SECRET.lower()}", rate).status_code in (200, 201)
        key = order_batch(self.api, "light", name=SECRET)
        make_all(self.operator)
        shown_codes(self.api, key, "light")
        path = f"/api/v1/imports?kind=subscribers&name={SECRET}"
        file = self.api.generic("POST", path, f"external_id\n{SECRET}", "text/csv")
        self.import_id = file.json()["id"]
        self.export_id = post(self.api, "exports", {"kind": "coupons"}).json()["id"]
        exports.work(self.export_id, instant=lambda: NOW, more=lambda: True)
        seen = Finding(self.subscriber.pk, "velocity", "x", {"what": SECRET})
        with transaction.atomic():
            cases.keep(self.operator, [seen], at=NOW)
        self.case = AnomalyCase.objects.get()
        account = {"name": SECRET, "live": False, "api_secret": SECRET, "webhook_secret": SECRET}
        assert put(self.api, "payment-providers/stripe", account).status_code == 200
        self.task = unclear_payment(self.operator, SECRET)
        complained: dict[str, Any] = {"kind": "charge", "text": SECRET, "channel": "app"}
        complained |= {"invoice": self.number, "line": 1}
        made = post(self.api, "subscribers/s-1/complaints", complained)
        self.complaint = made.json()["number"]
        hook = {"url": "https://example.com/", "description": SECRET}
        self.endpoint = post(self.api, "webhook-endpoints", hook).json()["id"]
        tested = post(self.api, f"webhook-endpoints/{self.endpoint}/test")
        self.delivery = tested.json()["id"]
        night = {"begins": "03:00", "ends": "04:00"}
        assert put(self.api, "subscribers/s-1/safety/night-lock", night).status_code == 200
        lines = {"used_percent": [99], "units_left": []}
        assert put(self.api, "subscribers/s-1/safety/alerts", lines).status_code == 200
        draft = {"name": SECRET, "cap": {"units": "5", "per": "day"}}
        self.key = post(self.api, "subscribers/s-1/keys", draft).json()
        family = {"owner": "s-1", "name": SECRET}
        self.family = post(self.api, "families", family).json()["id"]
        invited = post(self.api, f"families/{self.family}/invites", {"label": SECRET})
        self.invite, self.family_code = invited.json()["id"], invited.json()["code"]
        put(self.api, "subscribers/s-2", {"name": SECRET})
        invited = post(self.api, f"families/{self.family}/invites", {"label": SECRET})
        answered = {"subscriber": "s-2", "code": invited.json()["code"]}
        self.member = post(self.api, "families/accept", answered).json()["id"]
        # Folding is one for all operators: it is done, so that nothing moves any more.
        rollups.fold_all(at=NOW)
        self.quarantined = QuarantinedRecord.objects.get()
        self.repeat = SuspectedRepeat.objects.get()
        self.window = UsageWindow.objects.get()

    def numbered(self, path: str) -> str | None:
        """The number of what the address is about."""
        for word, own in (
            ("consents", self.consent),
            ("orders", self.order),
            ("refunds", self.refund),
            ("disputes", self.dispute),
            ("complaints", self.complaint),
        ):
            if f"/{word}/" in path:
                return str(own)
        return self.number


def booster(name: str) -> dict[str, Any]:
    return {"name": name, "price": "8.00", "units": "1000", "valid_days": 30}


@pytest.fixture
def theirs() -> Theirs:
    return Theirs()


@pytest.fixture
def ours(theirs: Theirs) -> Operator:
    operator = make_operator("ours")
    make_rate_card(operator)
    make_plan(operator, "light")
    return operator


Door = tuple[str, str]
# What an operator's key gets where it names what is another's: the body sent, the status.
NOT_FOUND: dict[Door, Any] = {
    ("GET", "/api/v1/subscribers/{external_id}/safety"): None,
    ("PUT", "/api/v1/subscribers/{external_id}/safety/night-lock"): {
        "begins": "23:00",
        "ends": "06:00",
    },
    ("PUT", "/api/v1/subscribers/{external_id}/safety/alerts"): {
        "used_percent": [50],
        "units_left": [],
    },
    ("PUT", "/api/v1/subscribers/{external_id}/safety/overage"): {
        "agreed": False,
        "text": "x",
        "text_version": "1",
        "language": "en",
        "channel": "app",
    },
    ("PUT", "/api/v1/subscribers/{external_id}/safety/minor"): {"minor": None},
    ("GET", "/api/v1/subscribers/{external_id}/keys"): None,
    ("POST", "/api/v1/subscribers/{external_id}/keys"): {"name": "x"},
    ("GET", "/api/v1/subscribers/{external_id}/keys/{key_id}"): None,
    ("PATCH", "/api/v1/subscribers/{external_id}/keys/{key_id}"): {"name": "y"},
    ("POST", "/api/v1/subscribers/{external_id}/keys/{key_id}/rotate"): {},
    ("POST", "/api/v1/subscribers/{external_id}/keys/{key_id}/revoke"): None,
    ("GET", "/api/v1/subscribers/{external_id}"): None,
    ("GET", "/api/v1/subscribers/{external_id}/balance"): None,
    ("GET", "/api/v1/subscribers/{external_id}/usage"): None,
    ("GET", "/api/v1/subscribers/{external_id}/usage-records"): None,
    ("GET", "/api/v1/subscribers/{external_id}/subscriptions"): None,
    ("POST", "/api/v1/subscribers/{external_id}/subscriptions"): {"plan": "light"},
    ("GET", "/api/v1/subscribers/{external_id}/subscriptions/{subscription_id}"): None,
    ("PATCH", "/api/v1/subscribers/{external_id}/subscriptions/{subscription_id}"): {
        "cancel_at_period_end": True
    },
    ("POST", "/api/v1/subscribers/{external_id}/subscriptions/{subscription_id}/coupons"): {
        "coupon": "light"
    },
    ("POST", "/api/v1/subscribers/{external_id}/subscriptions/{subscription_id}/pause"): None,
    ("POST", "/api/v1/subscribers/{external_id}/subscriptions/{subscription_id}/resume"): None,
    ("POST", "/api/v1/subscribers/{external_id}/boosters"): {"booster": "booster"},
    ("POST", "/api/v1/subscribers/{external_id}/grants"): {
        "units": "1",
        "valid_until": "2026-07-01T00:00:00Z",
        "reason": "x",
    },
    ("GET", "/api/v1/families/{family_id}"): None,
    ("PATCH", "/api/v1/families/{family_id}"): {"name": "x"},
    ("POST", "/api/v1/families/{family_id}/invites"): {"label": "x"},
    ("DELETE", "/api/v1/families/{family_id}/invites/{invite_id}"): None,
    ("PATCH", "/api/v1/families/{family_id}/members/{member_id}"): {"cap": "1"},
    ("POST", "/api/v1/families/{family_id}/gifts"): {
        "giver": "s-1",
        "receiver": "s-2",
        "units": "0.001",
        "key": "x",
    },
    ("DELETE", "/api/v1/families/{family_id}/members/{member_id}"): None,
    ("DELETE", "/api/v1/families/{family_id}"): None,
    ("POST", "/api/v1/subscribers/{external_id}/wallet/credits"): {"amount": "1.00", "reason": "x"},
    ("GET", "/api/v1/subscribers/{external_id}/invoices"): None,
    ("GET", "/api/v1/invoices/{number}"): None,
    ("GET", "/api/v1/invoices/{number}.pdf"): None,
    ("POST", "/api/v1/invoices/{number}/credit"): {"reason": "x"},
    ("POST", "/api/v1/invoices/{number}/void"): {"reason": "x"},  # after the credit: refused
    ("GET", "/api/v1/approvals/{approval_id}"): None,
    ("POST", "/api/v1/approvals/{approval_id}/approve"): {"reason": "x"},  # by whoever asked
    ("POST", "/api/v1/approvals/{approval_id}/reject"): {"reason": "x"},  # likewise
    ("GET", "/api/v1/subscribers/{external_id}/orders"): None,
    ("POST", "/api/v1/subscribers/{external_id}/orders"): {"kind": "top_up", "amount": "1.00"},
    ("GET", "/api/v1/orders/{number}"): None,
    ("POST", "/api/v1/orders/{number}/pay"): {"way": "bank"},
    ("POST", "/api/v1/orders/{number}/cancel"): {"reason": "x"},
    ("POST", "/api/v1/orders/{number}/refunds"): {"preview": True},
    ("GET", "/api/v1/orders/{number}/refunds"): None,
    ("GET", "/api/v1/refunds/{number}"): None,
    ("POST", "/api/v1/refunds/{number}/transferred"): {"reference": "x"},
    ("POST", "/api/v1/refunds/{number}/to-wallet"): None,  # once it is transferred: refused
    ("POST", "/api/v1/refunds/{number}/retry"): None,  # likewise
    ("POST", "/api/v1/refunds/{number}/cancel"): None,  # likewise
    ("GET", "/api/v1/disputes/{number}"): None,
    ("PUT", "/api/v1/disputes/{number}/evidence"): {"uncategorized_text": "x"},
    ("POST", "/api/v1/disputes/{number}/submit"): None,
    ("POST", "/api/v1/subscribers/{external_id}/complaints"): {
        "kind": "service",
        "text": "x",
        "channel": "app",
    },
    ("GET", "/api/v1/complaints/{number}"): None,
    ("POST", "/api/v1/complaints/{number}/answer"): {"text": "x"},
    ("POST", "/api/v1/complaints/{number}/close"): {"text": "x"},
    ("GET", "/api/v1/subscribers/{external_id}/wallet"): None,
    ("GET", "/api/v1/subscribers/{external_id}/wallet/movements"): None,
    ("GET", "/api/v1/subscribers/{external_id}/wallet/statement"): None,
    ("GET", "/api/v1/subscribers/{external_id}/wallet/statement.csv"): None,
    ("GET", "/api/v1/subscribers/{external_id}/wallet/holds"): None,
    ("POST", "/api/v1/subscribers/{external_id}/wallet/holds"): {"amount": "1.00", "purpose": "x"},
    ("POST", "/api/v1/wallet-holds/{hold_id}/release"): {"reason": "x"},
    ("POST", "/api/v1/wallet-holds/{hold_id}/capture"): {"order": "X-1"},  # released: refused
    ("GET", "/api/v1/subscribers/{external_id}/auto-top-up"): None,
    ("PUT", "/api/v1/subscribers/{external_id}/auto-top-up"): AUTO_TOP_UP,
    ("POST", "/api/v1/subscribers/{external_id}/auto-top-up/withdraw"): {"channel": "x"},
    ("POST", "/api/v1/payment-differences/{difference_id}/assign"): {"owner": "x", "note": "x"},
    ("POST", "/api/v1/payment-differences/{difference_id}/resolve"): {
        "resolution": "known",
        "note": "x",
    },
    ("POST", "/api/v1/payment-differences/{difference_id}/approve"): {"note": "x"},
    ("POST", "/api/v1/payment-differences/{difference_id}/reject"): {"note": "x"},
    ("GET", "/api/v1/transfers/{transfer_id}"): None,
    ("POST", "/api/v1/transfers/{transfer_id}/match"): {"wallet": "s-1"},
    ("GET", "/api/v1/imports/{import_id}"): None,
    ("GET", "/api/v1/imports/{import_id}/result"): None,
    ("POST", "/api/v1/imports/{import_id}/start"): None,
    ("POST", "/api/v1/imports/{import_id}/cancel"): None,
    ("GET", "/api/v1/exports/{export_id}"): None,
    ("GET", "/api/v1/exports/{export_id}/file"): None,
    ("GET", "/api/v1/handovers/{handover_id}"): None,
    ("POST", "/api/v1/handovers/{handover_id}/approve"): {"reason": "x"},  # by whoever asked
    ("POST", "/api/v1/handovers/{handover_id}/reject"): {"reason": "x"},  # likewise
    ("POST", "/api/v1/handovers/preview"): {
        "kind": "recycle",
        "subscriber": "s-1",
        "subjects": ["user-s-1"],
    },
    ("GET", "/api/v1/anomalies/{case_id}"): None,
    ("POST", "/api/v1/anomalies/{case_id}/freeze"): {"reason": "x"},
    ("POST", "/api/v1/anomalies/{case_id}/release"): {"reason": "x"},
    ("POST", "/api/v1/anomalies/{case_id}/confirm"): {"reason": "x"},
    ("POST", "/api/v1/anomalies/{case_id}/dismiss"): {"reason": "x"},  # after that: refused
    ("GET", "/api/v1/voucher-batches/{batch}"): None,
    ("POST", "/api/v1/voucher-batches/{batch}/codes"): {"key": "x"},
    ("POST", "/api/v1/voucher-batches/{batch}/activate"): {"first": 1, "last": 1},
    ("POST", "/api/v1/voucher-batches/{batch}/void"): {"first": 1, "last": 1, "reason": "x"},
    ("GET", "/api/v1/vouchers/{serial}"): None,
    ("POST", "/api/v1/vouchers/{serial}/void"): {"reason": "x"},
    ("GET", "/api/v1/subscribers/{external_id}/consents"): None,
    ("POST", "/api/v1/subscribers/{external_id}/consents"): {
        "kind": "auto_renew",
        "text": "x",
        "text_version": "2",
        "language": "en",
        "channel": "app",
    },
    ("POST", "/api/v1/subscribers/{external_id}/consents/{number}/withdraw"): {"channel": "app"},
    ("GET", "/api/v1/subscribers/{external_id}/collections"): None,
    ("GET", "/api/v1/subscribers/{external_id}/dunning"): None,
    ("POST", "/api/v1/subscribers/{external_id}/dunning/stop"): {"reason": "x"},
    ("POST", "/api/v1/subscribers/{external_id}/dunning/resume"): {"reason": "x"},
    ("GET", "/api/v1/subscribers/{external_id}/notices"): None,
    ("GET", "/api/v1/subscribers/{external_id}/notice-preferences"): None,
    ("PUT", "/api/v1/subscribers/{external_id}/notice-preferences"): {
        "items": [{"kind": "bucket.threshold", "channel": "sms", "wanted": False}]
    },
    ("GET", "/api/v1/webhook-endpoints/{endpoint_id}"): None,
    ("PATCH", "/api/v1/webhook-endpoints/{endpoint_id}"): {"description": "x"},
    ("POST", "/api/v1/webhook-endpoints/{endpoint_id}/rotate-secret"): {},
    ("POST", "/api/v1/webhook-endpoints/{endpoint_id}/test"): None,
    ("POST", "/api/v1/webhook-endpoints/{endpoint_id}/replay"): {
        "since": "2026-06-01T00:00:00Z",
        "until": "2026-07-01T00:00:00Z",
    },
    ("GET", "/api/v1/webhook-endpoints/{endpoint_id}/deliveries"): None,
    ("GET", "/api/v1/webhook-deliveries/{delivery_id}"): None,
    ("POST", "/api/v1/webhook-deliveries/{delivery_id}/replay"): None,  # it waits: refused
    ("POST", "/api/v1/webhook-endpoints/{endpoint_id}/disable"): {"reason": "x"},
    ("POST", "/api/v1/webhook-endpoints/{endpoint_id}/enable"): None,
    ("DELETE", "/api/v1/webhook-endpoints/{endpoint_id}"): None,
    ("POST", "/api/v1/quarantine/{quarantine_id}/retry"): None,
    ("GET", "/api/v1/usage-windows/{window_id}"): None,
    ("POST", "/api/v1/usage-windows/{window_id}/compare"): None,
    ("POST", "/api/v1/usage-windows/{window_id}/resend"): {"reason": "x"},
    ("POST", "/api/v1/usage-windows/{window_id}/close"): {"reason": "x"},
    ("POST", "/api/v1/suspected-repeats/{repeat_id}/dismiss"): {"reason": "x"},
    ("GET", "/api/v1/re-ratings/{run_id}"): None,
    ("GET", "/api/v1/re-ratings/{run_id}/subscribers"): None,
    ("POST", "/api/v1/re-ratings/{run_id}/apply"): None,
    ("GET", "/api/v1/payment-tasks/{task_id}"): None,
    ("POST", "/api/v1/payment-tasks/{task_id}/resolve"): {"action": "note", "note": "x"},
    ("POST", "/api/v1/payment-providers/{provider}/secrets"): {"kind": "api", "secret": "x"},
    ("DELETE", "/api/v1/payment-providers/{provider}"): None,
    ("POST", "/api/v1/subscribers/{external_id}/usage-records/{record_id}/correct"): {
        "reason": "x",
        "input_tokens": 1,
    },
    ("POST", "/api/v1/subscribers/{external_id}/usage-records/{record_id}/void"): {"reason": "x"},
}
# Where what was done before it, in this order, stands against it: a plan is held, and cancelled.
REFUSED = (
    *("/subscriptions", "/pause", "{number}/void", "/approve", "/reject"),
    *("orders/{number}/refunds", "/to-wallet", "refunds/{number}/retry"),
    "refunds/{number}/cancel",
    "{delivery_id}/replay",
    *("/codes", "imports/{import_id}/start", "{case_id}/dismiss"),
    "/capture",
)
EMPTY_LISTS = {
    ("GET", "/api/v1/subscribers"),
    ("GET", "/api/v1/coupons"),
    ("GET", "/api/v1/quarantine"),
    ("GET", "/api/v1/usage-windows"),
    ("GET", "/api/v1/adjustments"),
    ("GET", "/api/v1/re-ratings"),
    ("GET", "/api/v1/approvals"),
    ("GET", "/api/v1/orders"),
    ("GET", "/api/v1/transfers"),
    ("GET", "/api/v1/provider-files"),
    ("GET", "/api/v1/payment-differences"),
    ("GET", "/api/v1/refunds"),
    ("GET", "/api/v1/disputes"),
    ("GET", "/api/v1/complaints"),
    ("GET", "/api/v1/payment-tasks"),
    ("GET", "/api/v1/tax-rates"),
    ("GET", "/api/v1/voucher-batches"),
    ("GET", "/api/v1/imports"),
    ("GET", "/api/v1/exports"),
    ("GET", "/api/v1/handovers"),
    ("GET", "/api/v1/anomalies"),
    ("GET", "/api/v1/webhook-endpoints"),
    ("GET", "/api/v1/families"),
}
# These make something of our own under a code or id that the other operator uses too.
OUR_OWN: dict[Door, Any] = {
    ("PUT", "/api/v1/plans/{code}"): {
        "name": "ours",
        "price": "1.00",
        "allowance": "5",
        "rate_card": "standard",
    },
    ("PUT", "/api/v1/boosters/{code}"): booster("ours"),
    ("PUT", "/api/v1/coupons/{code}"): {"name": "ours", "percent": "10"},
    ("PUT", "/api/v1/rate-cards/{code}"): {
        "effective_from": "2026-06-01T00:00:00Z",
        "weights": [
            {
                "model": "*",
                **dict.fromkeys(("input", "cached_input", "cache_write", "output"), "7"),
                "reasoning": "7",
            }
        ],
    },
    ("PUT", "/api/v1/subscribers/{external_id}"): {"name": "ours", "subjects": ["user-s-1"]},
    ("POST", "/api/v1/subscribers/batch"): [
        {"external_id": "s-1", "name": "ours", "subjects": ["user-s-1"], "plan": "light"}
    ],
    ("POST", "/api/v1/re-ratings"): {
        "rate_card": "standard",
        "since": "2026-06-01T00:00:00Z",
        "until": "2026-07-01T00:00:00Z",
        "reason": "ours",
    },
    ("POST", "/api/v1/test-clock"): {"now": "2026-06-11T00:00:00Z"},
    ("PATCH", "/api/v1/operator"): {"top_up_url": "https://ours.example.com"},
    ("PUT", "/api/v1/letterhead"): {"name": "ours"},
    ("GET", "/api/v1/complaint-policy"): None,
    ("PUT", "/api/v1/complaint-policy"): {"reply_days": 7},
    ("GET", "/api/v1/collection-policy"): None,
    ("PUT", "/api/v1/collection-policy"): {
        "days_ahead": 7,
        "notice_days": 6,
        "lead_days": 2,
        "ways": ["wallet"],
        "retry_days": [0, 2],
        "from_hour": 9,
        "until_hour": 18,
        "grace_days": 3,
        "phone_bill_cap": None,
    },
    ("GET", "/api/v1/approval-policy"): None,
    ("PUT", "/api/v1/approval-policy"): {"units_limit": "5", "prices_by_two": False},
    ("GET", "/api/v1/correction-policy"): None,
    ("PUT", "/api/v1/correction-policy"): {
        "approval_limit": "5.00",
        "over_charge_factor": "2",
    },
    ("PUT", "/api/v1/tax-rates/{category}"): {"rate": "0.13", "effective_from": "2027-01-01"},
    ("POST", "/api/v1/transfers"): {"reference": SECRET[::-1], "amount": "7.00", "payer": "ours"},
    ("GET", "/api/v1/notice-policy"): None,
    ("PUT", "/api/v1/notice-policy"): {
        "quiet_from": "20:00",
        "quiet_until": "09:00",
        "expiry_days": 1,
    },
    ("PUT", "/api/v1/voucher-batches/{batch}"): TERMS | {"amount": "1.00", "name": "ours"},
    ("POST", "/api/v1/exports"): {"kind": "subscribers"},
    ("GET", "/api/v1/recycling-policy"): None,
    ("PUT", "/api/v1/recycling-policy"): {"cooling_days": 30},
    ("GET", "/api/v1/anomaly-policy"): None,
    ("PUT", "/api/v1/anomaly-policy"): {
        "bill_factor": "4",
        "velocity_factor": "9",
        "velocity_units": "100",
        "networks": 5,
        "end_users": 5,
        "busy_hours": 20,
        "busy_days": 2,
    },
    ("POST", "/api/v1/webhook-endpoints"): {"url": "https://ours.example.com"},
    ("GET", "/api/v1/top-up-policy"): None,
    ("PUT", "/api/v1/top-up-policy"): {"fixed": ["5.00"], "free": None},
    ("GET", "/api/v1/dunning"): None,
    ("POST", "/api/v1/dunning/stop"): {"reason": "ours"},
    ("POST", "/api/v1/plans/{code}/rehearsals"): {"month": "2026-06"},
    ("GET", "/api/v1/figures"): None,
    ("POST", "/api/v1/figures"): None,
    ("GET", "/api/v1/payment-providers"): None,
    ("PUT", "/api/v1/payment-providers/{provider}"): {
        "name": "ours",
        "live": False,
        "api_secret": "ours",
        "webhook_secret": "ours",
    },
}
AUTHORIZING = {
    (method, path)
    for method in ("GET", "POST")
    for path in ("/api/v1/authorize", "/api/v1/authorize/{original}")
}
RESERVING = {
    ("POST", "/api/v1/reservations"),
    ("POST", "/api/v1/reservations/{name}/commit"),
    ("POST", "/api/v1/reservations/{name}/release"),
    ("POST", "/api/v1/reservations/{name}/usage"),
}
EVENTS = {
    ("POST", "/api/v1/events"),
    ("POST", "/api/v1/events/batch"),
    ("POST", "/v1/billing/meter_events"),
    ("POST", "/v2/billing/meter_events"),
    ("POST", "/v1/events/ingest"),
    ("POST", "/v1/track"),
    ("POST", "/v1/balances.track"),
    ("POST", "/v1/balances.track_tokens"),
    ("POST", "/v1/balances.batch_track_tokens"),
    ("POST", "/v1/traces"),
    ("POST", "/v1/logs"),
}
METHODS = {  # tests/test_stripe.py
    ("GET", "/api/v1/subscribers/{external_id}/payment-methods"),
    ("POST", "/api/v1/subscribers/{external_id}/payment-methods"),
    ("DELETE", "/api/v1/subscribers/{external_id}/payment-methods/{method_id}"),
    ("POST", "/api/v1/subscribers/{external_id}/payment-methods/{method_id}/default"),
}
ELSEWHERE = {
    *METHODS,
    ("GET", "/api/v1/operator"),  # names nothing but the key's own
    ("GET", "/api/v1/letterhead"),  # likewise
    ("GET", "/api/v1/provider-days"),  # likewise
    ("POST", "/api/v1/provider-files"),  # test_another_operators_provider_files_…
    ("POST", "/api/v1/dunning/resume"),  # likewise
    ("GET", "/api/v1/plans"),  # test_another_operators_offerings_are_neither_listed_nor_sold
    ("GET", "/api/v1/suspected-repeats"),  # test_another_operators_suspected_repeats_…
    *EVENTS,  # test_another_operators_gateway_charges_nobody_here_…
    ("POST", "/api/v1/usage-records"),  # test_another_operators_gateway_…
    *AUTHORIZING,
    ("POST", "/api/v1/keys/introspect"),  # test_another_operators_gateway_learns_nothing_of_a_key
    ("POST", "/api/v1/subscribers/{external_id}/vouchers"),  # tests/test_vouchers.py
    ("POST", "/api/v1/imports"),  # tests/test_interchange.py
    ("POST", "/api/v1/families"),  # test_another_operators_families_…
    ("POST", "/api/v1/families/accept"),  # likewise
    ("POST", "/api/v1/handovers"),  # tests/test_handovers.py
    ("GET", "/api/v1/usage-counters"),  # tests/test_usage_windows.py
    ("POST", "/api/v1/usage-counters"),  # tests/test_usage_windows.py
    *RESERVING,  # test_another_operators_gateway_reaches_no_reservation_…
}


def all_doors() -> set[Door]:
    schema = APIClient().get("/api/schema/?format=json").json()
    return {
        (method.upper(), path)
        for path, methods in schema["paths"].items()
        for method in methods
        if method in ("get", "post", "put", "patch", "delete")
    }


def address(path: str, theirs: Theirs, code: str = "light") -> str:
    filled = path.format(
        external_id="s-1",
        subscription_id=theirs.subscription.id,
        quarantine_id=theirs.quarantined.pk,
        repeat_id=theirs.repeat.pk,
        window_id=theirs.window.pk,
        record_id=f"{SECRET}-1",
        run_id=theirs.run["id"],
        code=code,
        name="ask-1",
        number=theirs.numbered(path),
        approval_id=theirs.approval.pk,
        transfer_id=theirs.transfer,
        hold_id=theirs.hold,
        difference_id=theirs.difference,
        task_id=theirs.task.pk,
        method_id=1,
        provider="stripe",
        endpoint_id=theirs.endpoint,
        delivery_id=theirs.delivery,
        category=SECRET.lower(),
        import_id=theirs.import_id,
        export_id=theirs.export_id,
        handover_id=theirs.handover_id,
        case_id=theirs.case.pk,
        key_id=theirs.key["id"],
        family_id=theirs.family,
        invite_id=theirs.invite,
        member_id=theirs.member,
        batch="light",
        serial="light-0000001",
        original="v1/chat",
    )
    if "/statement" in path:
        return f"{filled}?from=2026-06-01&to=2026-06-30"
    return f"{filled}?by=day&{SPAN}" if "/usage" in path else filled


def call(api: APIClient, door: Door, path: str, body: Any = None) -> Any:
    raw = "" if body is None else json.dumps(body)
    return api.generic(door[0], path, raw, "application/json")


def rows_of(theirs: Theirs) -> dict[str, list[str]]:
    """Every row of the other operator's, as text."""
    by_operator = "operator_id = %(operator)s"
    by_subscriber = "subscriber_id = %(subscriber)s"
    conditions = {
        "subscriptions_operator": "id = %(operator)s",
        "subscriptions_gateway": by_operator,
        "subscriptions_apikey": by_operator,
        "subscriptions_guard": by_subscriber,
        "subscriptions_safetystep": by_subscriber,
        "subscriptions_usagealert": by_subscriber,
        "subscriptions_subscriberkey": by_operator,
        "subscriptions_keysecret": "key_id IN (SELECT id FROM subscriptions_subscriberkey"
        " WHERE operator_id = %(operator)s)",
        "subscriptions_plan": by_operator,
        "subscriptions_booster": by_operator,
        "subscriptions_ratecard": by_operator,
        "subscriptions_subscriber": by_operator,
        "subscriptions_subject": by_operator,
        "subscriptions_subscription": by_operator,
        "subscriptions_subscriptionperiod": by_operator,
        "subscriptions_bucket": by_subscriber,
        "subscriptions_bucketentry": by_subscriber,
        "subscriptions_outboxevent": by_subscriber,
        "subscriptions_family": by_operator,
        **dict.fromkeys(
            ("subscriptions_familymember", "subscriptions_familyinvite"),
            "family_id IN (SELECT id FROM subscriptions_family WHERE operator_id = %(operator)s)",
        ),
        "subscriptions_webhookendpoint": by_operator,
        "subscriptions_webhookdelivery": "endpoint_id IN (SELECT id FROM"
        " subscriptions_webhookendpoint WHERE operator_id = %(operator)s)",
        "subscriptions_reservation": by_subscriber,
        "subscriptions_reservationname": by_operator,
        "metering_usagerecord": by_subscriber,
        "metering_usagehour": by_subscriber,
        "metering_subjecthour": by_subscriber,
        "metering_usageday": by_subscriber,
        "metering_subjectday": by_subscriber,
        "metering_usagebatch": by_operator,
        "metering_adjustment": by_operator,
        "metering_rerating": by_operator,
        "metering_reratingshare": by_subscriber,
        "metering_adjustedrecord": by_subscriber,
        "metering_quarantinedrecord": by_operator,
        "metering_suspectedrepeat": by_operator,
        "metering_usagewindow": by_operator,
        "billing_invoice": by_operator,
        "billing_invoiceline": by_subscriber,
        "billing_invoicenumber": by_operator,
        "billing_letterhead": by_operator,
        "billing_order": by_operator,
        "billing_orderstep": by_subscriber,
        "billing_banktransfer": by_operator,
        "billing_refund": by_operator,
        "billing_dispute": by_operator,
        "billing_complaint": by_operator,
        "billing_complaintmessage": by_subscriber,
        "billing_wallet": by_operator,
        "billing_walletmovement": by_operator,
        "billing_wallethold": by_operator,
        "billing_providerfile": by_operator,
        "billing_providerline": by_operator,
        "billing_paymentdifference": by_operator,
        "billing_topuppolicy": by_operator,
        "billing_autotopup": by_operator,
        "billing_autotopuprun": by_operator,
        "billing_provideraccount": by_operator,
        "billing_providerpayment": by_operator,
        "billing_paymenttask": by_operator,
        "billing_approval": by_operator,
        "billing_importjob": by_operator,
        "billing_exportjob": by_operator,
        "billing_handover": by_operator,
        "billing_anomalycase": by_operator,
        "billing_voucherbatch": by_operator,
        "billing_voucher": by_operator,
        "billing_correctionpolicy": by_operator,
        "subscriptions_taxrate": by_operator,
        "billing_account": by_operator,
        "billing_posting": by_operator,
    }
    parameters = {"operator": theirs.operator.pk, "subscriber": theirs.subscriber.pk}
    found = {}
    with connection.cursor() as cursor:
        for table, condition in conditions.items():
            cursor.execute(
                f"SELECT t::text FROM {table} t WHERE {condition} ORDER BY 1", parameters
            )
            found[table] = [row[0] for row in cursor.fetchall()]
    return found


@pytest.fixture
def unchanged(theirs: Theirs) -> Callable[[], None]:
    before = rows_of(theirs)
    assert all(rows for table, rows in before.items() if table != "subscriptions_outboxevent")

    def check() -> None:
        assert rows_of(theirs) == before

    return check


def test_every_door_is_looked_at_here() -> None:
    known = {*NOT_FOUND, *EMPTY_LISTS, *OUR_OWN, *ELSEWHERE}

    assert all_doors() == known


def test_what_is_another_operators_is_not_there(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    api = client_for(make_key(ours))
    # The same doors are open to whom it belongs.
    assert call(theirs.api, ("GET", ""), address("/api/v1/subscribers/s-1", theirs)).json()

    for door, body in NOT_FOUND.items():
        answer = call(api, door, address(door[1], theirs), body)
        assert (answer.status_code, answer.json()["cause"]) == (404, "not_found"), door
        assert SECRET not in answer.content.decode()
    unchanged()


def test_each_of_these_doors_opens_to_the_operator_itself(theirs: Theirs) -> None:
    for door, body in NOT_FOUND.items():
        if body is AUTO_TOP_UP:
            body = theirs.auto_top_up  # which names a card of theirs
        answer = call(theirs.api, door, address(door[1], theirs), body)
        refused = door[0] == "POST" and door[1].endswith(REFUSED)
        assert answer.status_code == 409 if refused else answer.status_code in (200, 201, 204), (
            door,
            answer.content,
        )


def test_another_operators_families_take_no_subscriber_of_ours_nor_the_other_way_round(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    api = client_for(make_key(ours))
    make_subscriber(ours)

    taken = post(api, "families/accept", {"subscriber": "s-1", "code": theirs.family_code})
    family = post(api, "families", {"owner": "s-1", "name": "ours"})
    founded = post(api, "families", {"owner": "s-2", "name": "ours"})

    assert [taken.status_code, family.status_code, founded.status_code] == [404, 201, 404]
    unchanged()


def test_another_operators_subscription_is_not_reached_through_our_subscriber(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    api = client_for(make_key(ours))
    make_subscriber(ours)

    for method, body in (("GET", None), ("PATCH", {"cancel_at_period_end": True})):
        path = f"/api/v1/subscribers/s-1/subscriptions/{theirs.subscription.id}"
        assert call(api, (method, ""), path, body).status_code == 404
    unchanged()


def test_lists_show_nothing_of_another_operator(theirs: Theirs, ours: Operator) -> None:
    api = client_for(make_key(ours))

    for _, path in EMPTY_LISTS:
        for query in ("", "?all=true", "?limit=1000"):
            assert api.get(f"{path}{query}").json() == {"items": [], "next": None}
    # A cursor of theirs shows nothing either.
    make_subscriber(theirs.operator, "s-2")
    cursor = theirs.api.get("/api/v1/subscribers?limit=1").json()["next"].partition("?")[2]
    assert api.get(f"/api/v1/subscribers?{cursor}").json()["items"] == []


def test_another_operators_offerings_are_neither_listed_nor_sold(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    api = client_for(make_key(ours))
    make_plan(theirs.operator, "secret", name=SECRET)
    make_subscriber(ours, "own")

    plans = api.get("/api/v1/plans")
    sold = api.post("/api/v1/subscribers/own/subscriptions", {"plan": "secret"}, format="json")
    boosted = api.post("/api/v1/subscribers/own/boosters", {"booster": "booster"}, format="json")
    batch = api.post(
        "/api/v1/subscribers/batch", [{"external_id": "own", "plan": "secret"}], format="json"
    )

    assert [plan["code"] for plan in plans.json()["items"]] == ["light"]
    assert SECRET not in plans.content.decode()
    assert (sold.status_code, sold.json()["cause"]) == (422, "unknown_plan")
    assert (boosted.status_code, boosted.json()["cause"]) == (422, "unknown_booster")
    assert batch.json()["items"][0]["cause"] == "unknown_plan"


@pytest.mark.parametrize("door", OUR_OWN, ids=lambda door: " ".join(door))
def test_what_is_made_is_made_in_ones_own_operator(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None], door: Door
) -> None:
    api = client_for(make_key(ours))
    code = (
        "standard" if "rate-cards" in door[1] else "booster" if "boosters" in door[1] else "light"
    )

    answer = call(api, door, address(door[1], theirs, code), OUR_OWN[door])

    assert answer.status_code in (200, 201), answer.content
    assert SECRET not in answer.content.decode()
    unchanged()


def test_another_operators_gateway_reaches_no_subscriber_of_ours(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    gateway = Gateway(ours)

    unknown = gateway.charge(record("a"), record(f"{SECRET}-1"))
    own = make_subscriber(ours)
    charged = gateway.charge(record("a"), record(f"{SECRET}-1", input_tokens=7))

    assert [r["cause"] for r in unknown["rejected"]] == ["unknown_subject"] * 2
    assert counted(charged) == (2, 0, 0)
    assert used(own) == {"uncovered": 147}
    assert client_for(make_key(ours)).get("/api/v1/quarantine").json()["items"]
    unchanged()


def test_another_operators_gateway_reaches_no_reservation_of_ours(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    gateway = Gateway(ours)

    assert reserve(gateway, "ask-2")["cause"] == "unknown_subject"
    asked = gateway.client.get("/api/v1/authorize?subject=user-s-1")
    assert (asked.status_code, asked["X-Cause"]) == (403, "unknown_subject")
    for path, body in (("commit", record("ask-1")), ("release", None), ("usage", [record("x")])):
        answer = call(gateway.client, ("POST", ""), f"/api/v1/reservations/ask-1/{path}", body)
        assert (answer.status_code, answer.json()["cause"]) == (404, "not_found")
    unchanged()
    make_subscriber(ours)
    assert reserve(gateway, "ask-1")["cause"] == "no_plan"
    unchanged()


def lago_event(name: str) -> dict[str, Any]:
    return {
        "event": sent.lago(name, external_subscription_id="user-s-1", timestamp=NOW.timestamp())
    }


def test_another_operators_gateway_charges_nobody_here_in_another_senders_format(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    gateway = Gateway(ours, name="ours")

    answer = call(gateway.client, ("POST", ""), "/api/v1/events", lago_event("t-1"))

    assert answer.status_code == 200
    assert answer["Usage-Rejected"] == "0=unknown_subject"
    unchanged()


def test_another_operators_gateway_learns_nothing_of_a_key(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    asked = {"token": theirs.key["secret"]}

    answer = post(Gateway(ours).client, "keys/introspect", asked)

    assert answer.json() == {"active": False}
    assert post(theirs.gateway.client, "keys/introspect", asked).json()["active"]
    unchanged()


def test_another_operators_suspected_repeats_are_not_listed(theirs: Theirs, ours: Operator) -> None:
    listed = [
        len(api.get("/api/v1/suspected-repeats").json()["items"])
        for api in (theirs.api, client_for(make_key(ours)))
    ]

    assert listed == [1, 0]


def test_two_operators_that_use_the_same_names_keep_apart(theirs: Theirs, ours: Operator) -> None:
    """Also where a process remembers subjects, cards and keys."""
    make_rate_card(ours, effective_from=NOW, weights={"*": ("5",) * 5})
    own = make_subscriber(ours)
    gateway = Gateway(ours, name=f"{SECRET} gateway")
    set_clock(ours, NOW + DAY)

    for n in range(3):
        assert theirs.gateway.charge(record(f"r-{n}"))["units"] == "120.000"
        assert gateway.charge(record(f"r-{n}"))["units"] == "600.000"

    assert used(own) == {"uncovered": 1800}
    assert sum(used(theirs.subscriber).values()) == 4 * 120 + 2 * 78


def test_without_any_key_or_with_one_of_the_other_role_every_door_is_shut(
    theirs: Theirs, unchanged: Callable[[], None]
) -> None:
    for door in all_doors():
        path = address(door[1], theirs)
        body = {**NOT_FOUND, **OUR_OWN}.get(door)
        gateways = door[1].startswith(GATEWAYS)
        other_role = theirs.api if gateways else theirs.gateway.client

        assert call(APIClient(), door, path, body).status_code == 401, door
        assert call(other_role, door, path, body).status_code == 403, door
    unchanged()


def test_another_operators_provider_files_are_its_own(
    theirs: Theirs, ours: Operator, unchanged: Callable[[], None]
) -> None:
    """The same file, line by line, is another one here."""
    api = client_for(make_key(ours))
    days = "provider-days?from=2026-06-01&to=2026-06-30"
    assert get(api, days)["items"] == []
    body = (
        "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category\n"
        "t-1,2026-06-10 04:00:00,cny,8.00,0.00,8.00,charge\n"
    )

    path = "/api/v1/provider-files?layout=stripe"
    answer = api.post(path, body, content_type="text/csv")

    assert answer.status_code == 201, answer.content
    [day] = get(api, days)["items"]
    assert day["total"]["amount"] == "8.00"
    unchanged()
