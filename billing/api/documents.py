"""Doors for documents: an invoice as PDF, and what its operator's letterhead says."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.utils.translation.trans_real import parse_accept_lang_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.invoices import NUMBER
from billing.documents import letterheads, store
from billing.documents.content import COLOUR
from billing.models import Letterhead
from billing.wording import LANGUAGES, Language
from subscriptions import clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Text
from subscriptions.api.operators import WebAddress
from subscriptions.api.pagination import BadQuery
from subscriptions.api.schema import refusals

_PDF = "application/pdf"
_LANGUAGES: dict[str, Language] = {"zh": "zh-Hans", "en": "en"}


class InvoiceDocumentDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_invoice_document",
        parameters=[
            NUMBER,
            OpenApiParameter(
                "lang",
                {"type": "string", "enum": list(_LANGUAGES)},
                description="Without it what `Accept-Language` prefers, else Chinese.",
            ),
            OpenApiParameter(
                "usage",
                {"type": "string", "enum": ["0", "1"], "default": "0"},
                description="1: with an appendix of the period's usage.",
            ),
        ],
        responses={
            (200, _PDF): OpenApiResponse(
                OpenApiTypes.BINARY, description="The same bytes each time."
            ),
            304: OpenApiResponse(description="`If-None-Match` names it already."),
            **refusals(404),
        },
    )
    def get(self, request: Request, number: str) -> HttpResponseBase:
        """An invoice or credit note as PDF; made when first asked for, kept ever after."""
        operator = operator_of(request)
        language = _language_of(request)
        usage = request.query_params.get("usage", "0")
        if usage not in ("0", "1"):
            raise BadQuery("usage is 1 with the appendix, 0 without")
        found = store.document(
            operator, number, language=language, usage=usage == "1", at=clock.now(operator)
        )
        answer = HttpResponse(bytes(found.content), content_type=_PDF)
        answer["Content-Disposition"] = f'inline; filename="{number}.pdf"'
        answer["Content-Language"] = language
        answer["Cache-Control"] = "private, no-cache"
        answer["ETag"] = etag = f'"{bytes(found.digest).hex()}"'
        patch_vary_headers(answer, ["Accept-Language"])
        known = get_conditional_response(request._request, etag=etag, response=answer)
        assert known is not None
        return known


def _language_of(request: Request) -> Language:
    """What is asked for, what the header prefers, Chinese. Raises BadQuery."""
    asked = request.query_params.get("lang")
    if asked is not None:
        if asked not in _LANGUAGES:
            raise BadQuery(f"lang is one of {', '.join(_LANGUAGES)}")
        return _LANGUAGES[asked]
    for tag, _ in parse_accept_lang_header(request.headers.get("Accept-Language", "").lower()):
        primary = tag.partition("-")[0]
        if primary in _LANGUAGES:
            return _LANGUAGES[primary]
    return LANGUAGES[0]


class Picture(Text):
    """A PNG or JPEG in Base64."""

    default_error_messages = {"base64": "a picture in Base64"}

    def to_internal_value(self, data: Any) -> bytes:  # type: ignore[override]
        try:
            return base64.b64decode(super().to_internal_value(data), validate=True)
        except (binascii.Error, ValueError):
            self.fail("base64")

    def to_representation(self, value: Any) -> str:
        return base64.b64encode(bytes(value)).decode()


class LetterheadBody(serializers.Serializer[Any]):
    """How an operator presents itself on its documents."""

    name = Text(max_length=200)
    address = Text(max_length=200, allow_blank=True, default="")
    phone = Text(max_length=40, allow_blank=True, default="")
    tax_id = Text(max_length=40, allow_blank=True, default="")
    bank = Text(max_length=100, allow_blank=True, default="")
    bank_account = Text(max_length=60, allow_blank=True, default="")
    colour = serializers.RegexField(
        r"^#[0-9A-Fa-f]{6}\Z",
        default=COLOUR,
        help_text="the accent, #rrggbb",
    )
    payment_url = WebAddress(
        max_length=200,
        allow_blank=True,
        default="",
        help_text="what the code on a bill opens; `{number}` in it becomes the bill's number",
    )
    logo = Picture(
        max_length=letterheads.LOGO_BYTES * 4 // 3,
        allow_blank=True,
        default=b"",
        help_text="a PNG or JPEG in Base64; made as small as it is printed",
    )
    ahead = serializers.ChoiceField(
        choices=["", *LANGUAGES],
        default="",
        help_text="the language in which documents are made before anybody asks for them",
    )


class LetterheadDoor(OperatorDoor):
    @extend_schema(operation_id="get_letterhead", responses={200: LetterheadBody, **refusals()})
    def get(self, request: Request) -> Response:
        """The letterhead of documents that are made now."""
        return _answer(letterheads.of(operator_of(request)))

    @extend_schema(
        operation_id="put_letterhead",
        request=LetterheadBody,
        responses={200: LetterheadBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Take a letterhead, whole, for documents made from now on."""
        body = LetterheadBody(data=request.data)
        body.is_valid(raise_exception=True)
        draft = letterheads.Draft(**body.validated_data)
        return _answer(letterheads.put(operator_of(request), draft))


def _answer(head: Letterhead) -> Response:
    return Response(LetterheadBody(head).data)
