"""The OpenAPI schema: it is served to anybody, says all there is, and the doors keep to it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.servers import basehttp
from django.core.servers.basehttp import WSGIRequestHandler
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from metering.models import QuarantinedRecord, UsageWindow
from subscriptions import clock
from subscriptions.models import Reservation
from tests.asking import reserve
from tests.factories import (
    client_for,
    make_gateway_key,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import GATEWAYS, HOUR, Gateway, assert_books_agree, put, record

SCHEMA = "/api/schema/?format=json"
METHODS = {"get", "post", "put", "patch", "delete"}
# Our own addresses, and those that other platforms' clients have built in.
PREFIXES = ("/api/v1/", "/v1/", "/v2/")
FOR_GATEWAYS = (
    "/api/v1/usage-records",
    "/api/v1/events",
    "/api/v1/events/batch",
    "/v1/billing/meter_events",
    "/v2/billing/meter_events",
    "/v1/events/ingest",
    "/v1/track",
    "/v1/balances.track",
    "/v1/balances.track_tokens",
    "/v1/balances.batch_track_tokens",
    "/v1/traces",
    "/v1/logs",
)
ASKS = "^/api/v1/(reservations|authorize)"
# Seconds for a run that takes half a minute: a machine that is slow breaks no door.
PATIENCE = 800
COUNTERS = "/api/v1/usage-counters"


@pytest.fixture
def schema(client: Client) -> Any:
    answer = client.get(SCHEMA)
    assert answer.status_code == 200
    return answer.json()


XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def test_the_schema_is_served_as_openapi_3_1_without_a_key(client: Client) -> None:
    answer = client.get(SCHEMA)

    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("application/vnd.oai.openapi+json")
    assert answer.json()["openapi"].startswith("3.1.")
    assert client.get("/api/schema/").status_code == 200


def test_the_schema_lists_every_address_and_method_of_the_api(schema: Any) -> None:
    served = {
        (path, method)
        for path, view in addresses(get_resolver().url_patterns)
        if path.startswith(PREFIXES)
        for method in METHODS
        if hasattr(view.cls, method)
    }

    said = {(path, m) for path, methods in schema["paths"].items() for m in methods}
    assert said == served


def addresses(patterns: Sequence[Any], before: str = "/") -> list[tuple[str, Any]]:
    found = []
    for pattern in patterns:
        here = before + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(pattern.pattern))
        if isinstance(pattern, URLResolver):
            found += addresses(pattern.url_patterns, here)
        elif isinstance(pattern, URLPattern):
            found.append((here, pattern.callback))
    return found


def test_every_operation_names_its_key_and_its_refusals(schema: Any) -> None:
    ids = []
    for path, methods in schema["paths"].items():
        for method, said in methods.items():
            role = "GatewayKey" if path.startswith(GATEWAYS) else "OperatorKey"
            assert said["security"] == [{role: []}], (method, path)
            assert {"401", "403", "503"} <= said["responses"].keys()
            for status, response in said["responses"].items():
                if status in ("204", "304"):
                    assert "content" not in response, (method, path)
                    continue
                media = {"application/problem+json" if status >= "4" else "application/json"}
                if status == "422" and path.startswith("/api/v1/events"):
                    media = {"application/json"}  # Lago's
                if path.endswith(".pdf") and status == "200":
                    media = {"application/pdf"}
                if path.endswith(("/file", "/result", ".csv", "/codes")) and status == "200":
                    media = {"text/csv"}
                if path.endswith("/exports/{export_id}/file") and status == "200":
                    media.add(XLSX)
                assert set(response["content"]) == media, (method, path, status)
            ids.append(said["operationId"])
    assert len(set(ids)) == len(ids)
    assert {"OperatorKey", "GatewayKey"} == schema["components"]["securitySchemes"].keys()


# The page ----------------------------------------------------------------------------------------


class _References(HTMLParser):
    """What a page asks its browser to load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe"):
            self.found += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.mark.django_db  # a file that is closed ends a request, which looks at connections
def test_the_page_loads_from_here_alone(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    call_command("collectstatic", "--noinput", verbosity=0)
    client = Client()

    page = client.get("/api/docs/")

    references = _References()
    references.feed(page.content.decode())
    assert page.status_code == 200
    assert len(references.found) >= 3
    for reference in references.found:
        assert reference.startswith("/"), reference
        answer: Any = client.get(reference)
        assert answer.status_code == 200, reference
        assert b"".join(answer)
        answer.close()
    # What the script then asks for is the schema, from here too.
    assert re.findall(r'"(https?://[^"]+)"', page.content.decode()) == []


# What any caller may send ------------------------------------------------------------------------

# Each door in one of these; the operator's are all that the others leave out.
whatever_is_sent = pytest.mark.timeout(PATIENCE + 100)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, live_server: Any) -> Any:
    """Django's server for tests. It holds each answer's body back 40 ms, as TCP does, and takes
    what comes in chunks for the next request; the one we serve with does neither.
    """
    monkeypatch.setattr(WSGIRequestHandler, "disable_nagle_algorithm", True)
    monkeypatch.setattr(basehttp, "ServerHandler", ReadsChunks)
    return live_server


class ReadsChunks(basehttp.ServerHandler):
    def __init__(self, stdin: Any, stdout: Any, stderr: Any, environ: Any, **more: Any) -> None:
        if environ.get("HTTP_TRANSFER_ENCODING") == "chunked":
            body = b""
            while size := int(stdin.readline(), 16):
                body += stdin.read(size)
                stdin.readline()
            stdin.readline()
            environ["CONTENT_LENGTH"] = str(len(body))
            stdin = io.BytesIO(body)
        super().__init__(stdin, stdout, stderr, environ, **more)


def schemathesis(server: Any, key: str, *options: str, config: Path | None = None) -> None:
    """Run it over the schema with a key; every failure it finds is one here."""
    checks = (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
            *(("--config-file", str(config)) if config else ()),
            *("run", f"{server.url}{SCHEMA}"),
            *("--header", f"Authorization: Bearer {key}"),
            *("--checks", ",".join(checks)),
            # One: its generators are not safe in two threads.
            *("--workers", "1", "--request-timeout", "300", "--warnings", "off"),
            "--generation-deterministic",
            *("--phases", "examples,coverage,fuzzing"),
            *("--suppress-health-check", "all", "--continue-on-failure"),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


@whatever_is_sent
@pytest.mark.django_db(transaction=True)
def test_whatever_an_operator_sends_no_door_breaks(server: Any, tmp_path: Path) -> None:
    """With the ids of things that are there: of random ones there are none."""
    operator = make_operator()
    subscription = subscribe(make_subscriber(operator), make_plan(operator))
    body = {"name": "B", "price": "1", "units": "5", "valid_days": 9}
    assert put(client_for(make_key(operator)), "boosters/b", body).status_code == 201
    Gateway(operator).charge(*(record(f"r-{n}") for n in range(5)), record("x", subject="no"))
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        f"""
        [parameters]
        external_id = "s-1"
        subscription_id = {subscription.id}
        quarantine_id = {QuarantinedRecord.objects.get().pk}
        """
    )

    schemathesis(
        server,
        make_key(operator),
        *(part for path in FOR_GATEWAYS for part in ("--exclude-path", path)),
        *("--exclude-path", "/api/v1/test-clock"),
        *("--exclude-path-regex", f"{ASKS}|^/api/v1/(usage-|suspected)"),
        *("--max-examples", "15"),
        config=config,
    )


@whatever_is_sent
@pytest.mark.django_db(transaction=True)
def test_whatever_an_operator_decides_no_door_breaks(server: Any, tmp_path: Path) -> None:
    operator = make_operator()
    gateway = Gateway(operator)
    end = clock.now(operator)
    counters = {
        "window_start": (end - HOUR).isoformat(),
        "window_end": end.isoformat(),
        **dict.fromkeys(("requests", "input_tokens", "output_tokens"), 9),
    }
    assert gateway.send(counters, path=COUNTERS).status_code == 200
    config = tmp_path / "schemathesis.toml"
    config.write_text(f"[parameters]\nwindow_id = {UsageWindow.objects.get().pk}\n")

    schemathesis(
        server,
        make_key(operator),
        *("--include-path-regex", "^/api/v1/(usage-windows|suspected-repeats)"),
        *("--max-examples", "8"),
        config=config,
    )


@whatever_is_sent
@pytest.mark.django_db(transaction=True)
def test_whatever_time_a_test_clock_is_given_it_holds(server: Any) -> None:
    """Of an operator without subscribers: else thousands of years of periods would fall due."""
    key = make_key(make_operator())

    schemathesis(server, key, *("--include-path", "/api/v1/test-clock", "--max-examples", "30"))


@whatever_is_sent
@pytest.mark.django_db(transaction=True)
def test_whatever_a_gateway_sends_the_door_holds(server: Any) -> None:
    operator = make_operator()
    make_plan(operator)
    make_subscriber(operator, subjects=("0", "user-7"))

    schemathesis(
        server,
        make_gateway_key(operator),
        *("--include-path", "/api/v1/usage-records", "--max-examples", "100"),
    )

    assert QuarantinedRecord.objects.exists()


@whatever_is_sent
@pytest.mark.django_db(transaction=True)
def test_whatever_a_gateway_asks_the_door_holds(server: Any, tmp_path: Path) -> None:
    operator = make_operator()
    subscribe(make_subscriber(operator, subjects=("0", "user-7")), make_plan(operator))
    reserve(Gateway(operator), subject="user-7", ttl_seconds=86_400)
    config = tmp_path / "schemathesis.toml"
    config.write_text('[parameters]\nname = "a-1"\n')

    schemathesis(
        server,
        make_gateway_key(operator),
        *("--include-path-regex", ASKS, "--max-examples", "20"),
        config=config,
    )

    assert Reservation.objects.exists()
    assert_books_agree()


@whatever_is_sent
@pytest.mark.django_db(transaction=True)
def test_whatever_a_gateway_counts_the_door_holds(server: Any) -> None:
    operator = make_operator()
    make_subscriber(operator)

    schemathesis(
        server,
        make_gateway_key(operator),
        *("--include-path", COUNTERS, "--max-examples", "60"),
    )


@whatever_is_sent
@pytest.mark.django_db(transaction=True)
def test_whatever_another_senders_client_sends_its_door_holds(server: Any) -> None:
    operator = make_operator()
    make_plan(operator)
    make_subscriber(operator, subjects=("0", "user-7"))

    schemathesis(
        server,
        make_gateway_key(operator),
        *(part for path in FOR_GATEWAYS[1:] for part in ("--include-path", path)),
        *("--max-examples", "25"),
    )
