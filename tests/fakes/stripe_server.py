"""Stripe, as far as we use it: a server on loopback that the real library talks to.

It keeps what it is asked for, refuses parameters that the library does not know, and has Stripe's
idempotency: the same key again is the first answer again, with other parameters it is an error.
What the payer does, a test does (`pay`, `decline`, `settle_refund`, …); each change leaves an
event, which the test sends signed when, and as often, as it likes.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.fakes import shapes

Thing = dict[str, Any]


class Refusal(Exception):
    def __init__(self, status: int, **error: Any) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


class FakeStripe:
    """The state, and what stands in for the payer and for time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._nr = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """Know of nothing; no name comes twice."""
        self.things: dict[str, Thing] = {}
        self.events: list[Thing] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        # What happens to the next requests: a status, "hang", or "lost" (done, not answered).
        self.troubles: deque[int | str] = deque()
        self.declines = False  # of saved cards
        self.asks_for_3ds = False
        self.refunds_wait = True
        self.fee = 0  # of every payment, in hundredths
        self.moved_at = 1781064000  # when the balance moves: noon of 10 June 2026 in Shanghai
        self.lies: dict[str, Any] = {}  # said of every payment that has succeeded
        self._keys: dict[str, tuple[Any, int, Thing]] = {}

    # As a server ------------------------------------------------------------------------------

    def start(self) -> str:
        """Listen; answers the address."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *said: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._do()

            def do_POST(self) -> None:
                self._do()

            def _do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length).decode()
                trouble = fake.troubles.popleft() if fake.troubles else None
                if trouble == "hang":
                    fake._released.wait(60)
                    self.close_connection = True
                    return
                url = urlsplit(self.path)
                if isinstance(trouble, int):
                    status, said = trouble, {"error": {"type": "api_error", "message": "trouble"}}
                else:
                    key = self.headers.get("Idempotency-Key")
                    params = nested(parse_qsl(body or url.query, keep_blank_values=True))
                    status, said = fake.answer(self.command, url.path, params, key)
                if trouble == "lost":
                    self.close_connection = True
                    self.connection.close()
                    return
                raw = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._released.set()
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def answer(
        self, method: str, path: str, params: dict[str, Any], key: str | None
    ) -> tuple[int, Thing]:
        with self._lock:
            self.asked.append((method, path, params))
            known = self._keys.get(key) if key and method == "POST" else None
            if known is not None:
                asked, status, said = known
                if asked == (path, params):
                    return status, said
                error = {"type": "idempotency_error", "message": "keys are used once"}
                return 400, {"error": error}
            try:
                status, said = 200, copy.deepcopy(self._route(method, path, params))
            except Refusal as refusal:
                status, said = refusal.status, {"error": {"message": "no", **refusal.error}}
            if key and method == "POST" and status < 500:
                self._keys[key] = ((path, params), status, said)
            return status, said

    def forget_keys(self) -> None:
        """What 24 hours do."""
        self._keys.clear()

    def _route(self, method: str, path: str, params: dict[str, Any]) -> Thing:
        for verb, pattern, name, do in self._routes():
            found = re.fullmatch(f"/v1/{pattern}", path)
            if found and verb == method:
                if name and (wrong := shapes.unknown_params(params, shapes.PARAMS[name])):
                    raise Refusal(400, code="parameter_unknown", param=wrong[0], **_INVALID)
                return do(*found.groups(), params)
        raise Refusal(404, code="url_invalid", **_INVALID)

    def _routes(self) -> list[tuple[str, str, str, Callable[..., Thing]]]:
        one = "([a-z]+_[A-Za-z0-9_]+)"
        kept = "payment_intents|payment_methods|refunds|setup_intents|checkout/sessions"
        return [
            ("POST", "payment_intents", "payment_intents", self._create_intent),
            ("GET", "payment_intents/search", "payment_intents/search", self._search),
            ("POST", f"payment_intents/{one}/cancel", "payment_intents/cancel", self._cancel),
            ("GET", f"(?:{kept})/{one}", "", self._show),
            ("GET", "refunds", "", self._refunds),
            ("POST", "checkout/sessions", "checkout/sessions", self._create_session),
            ("POST", f"checkout/sessions/{one}/expire", "", self._expire),
            ("POST", "customers", "customers", self._create_customer),
            ("POST", f"payment_methods/{one}/detach", "", self._detach),
            ("POST", "refunds", "refunds", self._create_refund),
            ("POST", f"disputes/{one}", "disputes/update", self._respond),
            ("GET", "balance_transactions", "balance_transactions", self._balance),
        ]

    # What is asked ----------------------------------------------------------------------------

    def _create_intent(self, params: dict[str, Any]) -> Thing:
        amount = int(params["amount"])
        if amount <= 0:
            raise Refusal(400, code="parameter_invalid_integer", param="amount", **_INVALID)
        [way] = params["allowed_payment_method_types"]
        intent = self._new_intent(amount, params["currency"], way, params.get("metadata", {}))
        intent["customer"] = params.get("customer")
        if params.get("confirm") != "true":
            return intent
        if "payment_method" in params:
            self._charge_saved(intent, params)
            return intent
        if way == "alipay":
            url = f"https://hooks.stripe.test/redirect/{intent['id']}"
            action = {"type": "alipay_handle_redirect", "alipay_handle_redirect": {"url": url}}
            action["alipay_handle_redirect"]["return_url"] = params["return_url"]  # type: ignore[index]
        elif way == "wechat_pay":
            assert params["payment_method_options"]["wechat_pay"]["client"] == "web"
            code = {"data": f"weixin://wxpay/bizpayurl?pr={intent['id']}"}
            action = {"type": "wechat_pay_display_qr_code", "wechat_pay_display_qr_code": code}
        else:
            raise Refusal(400, code="payment_intent_incompatible_payment_method", **_INVALID)
        intent |= {"status": "requires_action", "next_action": action}
        return intent

    def _charge_saved(self, intent: Thing, params: dict[str, Any]) -> None:
        method = self.things.get(params["payment_method"])
        if method is None or method["customer"] != params.get("customer"):
            raise Refusal(400, code="resource_missing", param="payment_method", **_INVALID)
        intent["payment_method"] = method["id"]
        unattended = params.get("off_session") == "true"
        if self.declines or (self.asks_for_3ds and unattended):
            code = "card_declined" if self.declines else "authentication_required"
            error = {"code": code, "decline_code": code, "type": "card_error"}
            intent |= {"status": "requires_payment_method", "last_payment_error": error}
            self._tell("payment_intent.payment_failed", intent)
            raise Refusal(402, payment_intent=copy.deepcopy(intent), **error)
        if self.asks_for_3ds:
            url = f"https://hooks.stripe.test/3ds/{intent['id']}"
            redirect = {"url": url, "return_url": params["return_url"]}
            action = {"type": "redirect_to_url", "redirect_to_url": redirect}
            intent |= {"status": "requires_action", "next_action": action}
            return
        self.pay(intent["id"])

    def _search(self, params: dict[str, Any]) -> Thing:
        [(name, value)] = re.findall(r"^metadata\['(\w+)'\]:'([^']*)'$", params["query"])
        found = [
            thing
            for thing in self.things.values()
            if thing["object"] == "payment_intent" and thing["metadata"].get(name) == value
        ]
        return {"object": "search_result", "data": found, "has_more": False, "url": "/v1/x"}

    def _get(self, id: str, params: dict[str, Any]) -> Thing:
        if id not in self.things:
            raise Refusal(404, code="resource_missing", param="id", **_INVALID)
        return self.things[id]

    def _show(self, id: str, params: dict[str, Any]) -> Thing:
        return self._shown(self._get(id, params))

    def _refunds(self, params: dict[str, Any]) -> Thing:
        rows = [t for t in self.of("refund") if t["payment_intent"] == params["payment_intent"]]
        return {"object": "list", "data": rows, "has_more": False, "url": "/v1/refunds"}

    def _cancel(self, id: str, params: dict[str, Any]) -> Thing:
        intent = self._get(id, params)
        if intent["status"] in ("succeeded", "canceled"):
            raise Refusal(400, code="payment_intent_unexpected_state", **_INVALID)
        intent |= {"status": "canceled", "next_action": None}
        self._tell("payment_intent.canceled", intent)
        return intent

    def _create_session(self, params: dict[str, Any]) -> Thing:
        id = self._id("cs_test")
        session: Thing = {
            "id": id,
            "object": "checkout.session",
            "mode": params["mode"],
            "status": "open",
            "payment_status": "unpaid",
            "url": f"https://checkout.stripe.test/{id}",
            "metadata": params.get("metadata", {}),
            "payment_intent": None,
            "setup_intent": None,
            "customer": params.get("customer"),
            "currency": None,
            "amount_total": None,
            "expires_at": int(params.get("expires_at", 0)),
            "livemode": False,
        }
        if params["mode"] == "payment":
            price = params["line_items"][0]["price_data"]
            session["currency"] = price["currency"]
            session["amount_total"] = int(price["unit_amount"])
            session["_metadata"] = params["payment_intent_data"]["metadata"]
        else:
            session["_metadata"] = params["setup_intent_data"]["metadata"]
        self.things[id] = session
        return self._shown(session)

    def _shown(self, thing: Thing) -> Thing:
        return {name: value for name, value in thing.items() if not name.startswith("_")}

    def _expire(self, id: str, params: dict[str, Any]) -> Thing:
        session = self._get(id, params)
        if session["status"] != "open":
            raise Refusal(400, code="checkout_session_not_open", **_INVALID)
        session |= {"status": "expired", "url": None}
        self._tell("checkout.session.expired", self._shown(session))
        return self._shown(session)

    def _create_customer(self, params: dict[str, Any]) -> Thing:
        id = self._id("cus")
        self.things[id] = {
            "id": id,
            "object": "customer",
            "metadata": params.get("metadata", {}),
            "livemode": False,
        }
        return self.things[id]

    def _detach(self, id: str, params: dict[str, Any]) -> Thing:
        method = self._get(id, params)
        method["customer"] = None
        self._tell("payment_method.detached", method)
        return method

    def _create_refund(self, params: dict[str, Any]) -> Thing:
        intent = self._get(params["payment_intent"], params)
        back = sum(
            thing["amount"]
            for thing in self.things.values()
            if thing["object"] == "refund"
            and thing["payment_intent"] == intent["id"]
            and thing["status"] in ("pending", "succeeded")
        )
        amount = int(params["amount"])
        if intent["status"] != "succeeded" or back + amount > intent["amount_received"]:
            raise Refusal(400, code="charge_already_refunded", **_INVALID)
        id = self._id("re")
        self.things[id] = {
            "id": id,
            "object": "refund",
            "amount": amount,
            "currency": intent["currency"],
            "payment_intent": intent["id"],
            "status": "pending" if self.refunds_wait else "succeeded",
            "failure_reason": None,
            "metadata": params.get("metadata", {}),
            "created": self._nr,
        }
        self._tell("refund.created", self.things[id])
        return self.things[id]

    def _respond(self, id: str, params: dict[str, Any]) -> Thing:
        """Evidence is taken once; before it is submitted it may be put down as often as wanted."""
        dispute = self._get(id, params)
        details = dispute["evidence_details"]
        if dispute["status"] not in ("needs_response", "warning_needs_response"):
            raise Refusal(400, code="dispute_already_closed", **_INVALID)
        dispute["evidence"] |= params.get("evidence", {})
        details["has_evidence"] = True
        if params.get("submit") != "false":
            details["submission_count"] += 1
            dispute["status"] = dispute["status"].replace("needs_response", "under_review")
            self._tell("charge.dispute.updated", dispute)
        return dispute

    def _balance(self, params: dict[str, Any]) -> Thing:
        """The latest first, in pages of two whatever is asked for."""
        since, until = (int(params["created"][name]) for name in ("gte", "lt"))
        rows = [t for t in self.of("balance_transaction") if since <= t["created"] < until]
        rows.reverse()
        after = params.get("starting_after")
        begin = [t["id"] for t in rows].index(after) + 1 if after else 0
        page = [dict(t) for t in rows[begin : begin + 2]]
        for one in page:
            if "data.source" in params.get("expand", []):
                one["source"] = self._shown(self.things[one["source"]])
        more = len(rows) > begin + 2
        return {"object": "list", "data": page, "has_more": more, "url": "/v1/balance_transactions"}

    # What the payer, the bank and time do -----------------------------------------------------

    def pay(self, id: str) -> Thing:
        """The payer pays: a payment, or on the page of a Checkout session."""
        with self._lock:
            thing = self.things[id]
            if thing["object"] == "checkout.session":
                assert thing["status"] == "open"
                intent = self._new_intent(
                    thing["amount_total"], thing["currency"], "card", thing["_metadata"]
                )
                thing |= {
                    "status": "complete",
                    "payment_status": "paid",
                    "payment_intent": intent["id"],
                    "url": None,
                }
                self.pay(intent["id"])
                self._tell("checkout.session.completed", self._shown(thing))
                return intent
            assert thing["status"] not in ("succeeded", "canceled"), "nobody can pay this"
            thing |= {"status": "succeeded", "amount_received": thing["amount"]}
            thing |= {"next_action": None} | self.lies
            charge = self._charge_of(thing)
            self._balance_of("charge", thing["amount"], charge, fee=self.fee)
            self._tell("payment_intent.succeeded", thing)
            return thing

    def decline(self, id: str) -> None:
        """The payer tried, and may try again."""
        with self._lock:
            error = {"code": "payment_intent_payment_attempt_failed", "type": "card_error"}
            self.things[id] |= {"status": "requires_payment_method", "last_payment_error": error}
            self._tell("payment_intent.payment_failed", self.things[id])

    def save_card(self, id: str) -> Thing:
        """The payer types a card on the page of a Checkout session that saves one."""
        with self._lock:
            session = self.things[id]
            method = {
                "id": self._id("pm"),
                "object": "payment_method",
                "type": "card",
                "customer": session["customer"],
                "card": {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2030},
                "metadata": {},
                "livemode": False,
            }
            intent = {
                "id": self._id("seti"),
                "object": "setup_intent",
                "status": "succeeded",
                "customer": session["customer"],
                "payment_method": method["id"],
                "metadata": session["_metadata"],
                "usage": "off_session",
                "livemode": False,
            }
            self.things |= {method["id"]: method, intent["id"]: intent}
            session |= {"status": "complete", "setup_intent": intent["id"], "url": None}
            self._tell("setup_intent.succeeded", intent)
            return method

    def settle_refund(self, id: str, status: str = "succeeded") -> None:
        with self._lock:
            refund = self.things[id]
            refund["status"] = status
            if status == "failed":
                refund["failure_reason"] = "expired_or_canceled_card"
            else:
                self._balance_of("refund", -refund["amount"], refund)
            self._tell("refund.failed" if status == "failed" else "refund.updated", refund)

    def dispute(self, id: str, status: str = "needs_response") -> Thing:
        with self._lock:
            intent = self.things[id]
            dispute = {
                "id": self._id("dp"),
                "object": "dispute",
                "amount": intent["amount"],
                "currency": intent["currency"],
                "payment_intent": id,
                "reason": "fraudulent",
                "status": status,
                "evidence": {},
                "evidence_details": {
                    "due_by": 1790000000,
                    "has_evidence": False,
                    "submission_count": 0,
                },
                "metadata": {},
                "livemode": False,
            }
            self.things[dispute["id"]] = dispute
            if not status.startswith("warning"):  # an inquiry takes nothing
                self._balance_of("dispute", -dispute["amount"], dispute)
            self._tell("charge.dispute.created", dispute)
            return dispute

    def close_dispute(self, id: str, status: str) -> None:
        with self._lock:
            dispute = self.things[id]
            dispute["status"] = status
            if status == "won":
                self._balance_of("dispute_reversal", dispute["amount"], dispute)
            self._tell("charge.dispute.closed", dispute)

    def of(self, kind: str) -> list[Thing]:
        """The objects of a kind, in the order they were made."""
        return [self._shown(one) for one in self.things.values() if one["object"] == kind]

    def bodies(self, kind: str = "") -> list[bytes]:
        """The events that there are, as they travel."""
        return [json.dumps(one).encode() for one in self.events if one["type"].startswith(kind)]

    # Inside -----------------------------------------------------------------------------------

    def _id(self, prefix: str) -> str:
        self._nr += 1
        return f"{prefix}_{self._nr:08}"

    def _new_intent(self, amount: int, currency: str, way: str, metadata: Any) -> Thing:
        id = self._id("pi")
        self.things[id] = {
            "id": id,
            "object": "payment_intent",
            "status": "requires_payment_method",
            "amount": amount,
            "amount_received": 0,
            "currency": currency,
            "payment_method_types": [way],
            "payment_method": None,
            "customer": None,
            "metadata": dict(metadata),
            "next_action": None,
            "last_payment_error": None,
            "livemode": False,
            "created": self._nr,
        }
        return self.things[id]

    def _charge_of(self, intent: Thing) -> Thing:
        """What balance transactions are about; it has the metadata that the payment had."""
        id = self._id("ch")
        self.things[id] = {
            "id": id,
            "object": "charge",
            "amount": intent["amount"],
            "currency": intent["currency"],
            "payment_intent": intent["id"],
            "metadata": dict(intent["metadata"]),
            "status": "succeeded",
            "livemode": False,
        }
        return self.things[id]

    def _balance_of(self, kind: str, amount: int, source: Thing, *, fee: int = 0) -> None:
        id = self._id("txn")
        self.things[id] = {
            "id": id,
            "object": "balance_transaction",
            "type": "adjustment" if kind.startswith("dispute") else kind,
            "reporting_category": kind,
            "amount": amount,
            "fee": fee,
            "net": amount - fee,
            "currency": source["currency"],
            "source": source["id"],
            "status": "available",
            "created": self.moved_at,
        }

    def _tell(self, kind: str, thing: Thing) -> None:
        self.events.append(
            {
                "id": self._id("evt"),
                "object": "event",
                "api_version": "2026-10-28.endive",
                "type": kind,
                "created": 1781000000 + self._nr,
                "livemode": False,
                "data": {"object": copy.deepcopy(thing)},
            }
        )


_INVALID = {"type": "invalid_request_error"}


def nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """`a[b][0]=c` and so on, as the library encodes parameters."""
    root: dict[str, Any] = {}
    for name, value in pairs:
        path = [name.partition("[")[0], *re.findall(r"\[([^\]]*)\]", name)]
        here = root
        for step in path[:-1]:
            here = here.setdefault(step, {})
        here[path[-1]] = value
    listed = _listed(root)
    assert isinstance(listed, dict)
    return listed


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(name.isdigit() for name in value):
        return [_listed(value[name]) for name in sorted(value, key=int)]
    return {name: _listed(inner) for name, inner in value.items()}
