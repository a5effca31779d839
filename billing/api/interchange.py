"""Doors for files that come in and go out: subscribers, coupons, vouchers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.http import HttpRequest, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api.corrections import person_of
from billing.exports import cells
from billing.interchange import columns, exports, imports
from billing.models import ExportJob, ImportJob
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Text, to_wire_time
from subscriptions.api.schema import CURSOR, LIMIT, refusals

_CSV = "text/csv"
_XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
KIND = OpenApiParameter(
    "kind", {"type": "string", "enum": list(columns.BY_KIND)}, OpenApiParameter.QUERY, required=True
)
NAME = OpenApiParameter(
    "name", {"type": "string", "maxLength": 200}, description="Of the file; for people."
)
IMPORT = OpenApiParameter("import_id", {"type": "integer"}, OpenApiParameter.PATH)
EXPORT = OpenApiParameter("export_id", {"type": "integer"}, OpenApiParameter.PATH)


class ImportBody(serializers.Serializer[Any]):
    """An import: how far it is, and what became of its rows."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=list(columns.BY_KIND))
    name = serializers.CharField()
    size = serializers.IntegerField(help_text="bytes")
    state = serializers.ChoiceField(choices=ImportJob.State.values)
    problem = serializers.CharField(help_text="why it failed")
    rows = serializers.IntegerField(help_text="read and tried out so far")
    applied = serializers.IntegerField(help_text="of these rows")
    tried = serializers.DictField(
        child=serializers.IntegerField(), help_text="how many would be created, …, rejected"
    )
    outcomes = serializers.DictField(
        child=serializers.IntegerField(), help_text="how many were, of those applied"
    )
    created_at = Instant()
    finished_at = Instant(allow_null=True)


class ImportPage(serializers.Serializer[Any]):
    items = ImportBody(many=True)
    next = serializers.URLField(allow_null=True)


class ExportOrder(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=list(columns.BY_KIND))
    batch = Text(max_length=32, required=False, help_text="whose vouchers")
    language = serializers.ChoiceField(
        choices=["en", "zh"], default="en", help_text="of the first row"
    )
    format = serializers.ChoiceField(
        choices=ExportJob.Form.values,
        default=ExportJob.Form.CSV.value,
        help_text="xlsx: a workbook, all of whose cells are text",
    )


class ExportBody(serializers.Serializer[Any]):
    """An export: how far it is."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=list(columns.BY_KIND))
    batch = serializers.CharField(required=False)
    format = serializers.ChoiceField(choices=ExportJob.Form.values)
    state = serializers.ChoiceField(choices=ExportJob.State.values)
    rows = serializers.IntegerField(help_text="written so far")
    created_at = Instant()
    finished_at = Instant(allow_null=True)


class ExportPage(serializers.Serializer[Any]):
    items = ExportBody(many=True)
    next = serializers.URLField(allow_null=True)


def show_import(job: ImportJob) -> dict[str, Any]:
    return {
        "id": str(job.pk),
        "kind": job.kind,
        "name": job.name,
        "size": job.size,
        "state": job.state,
        "problem": job.problem,
        "rows": job.read,
        "applied": job.applied,
        "tried": job.tried,
        "outcomes": job.outcomes,
        "created_at": to_wire_time(job.created_at),
        "finished_at": to_wire_time(job.finished_at) if job.finished_at else None,
    }


def show_export(job: ExportJob) -> dict[str, Any]:
    return {
        "id": str(job.pk),
        "kind": job.kind,
        **({"batch": job.of} if job.of else {}),
        "format": job.form,
        "state": job.state,
        "rows": job.rows,
        "created_at": to_wire_time(job.created_at),
        "finished_at": to_wire_time(job.finished_at) if job.finished_at else None,
    }


def _pieces(request: HttpRequest) -> Iterator[bytes]:
    """A request's body as it comes."""
    while piece := request.read(imports.PART):
        yield piece


def _file(
    lines: Iterator[bytes],
    name: str,
    form: str = ExportJob.Form.CSV,
) -> StreamingHttpResponse:
    kind = _XLSX if form == ExportJob.Form.XLSX else f"{_CSV}; charset=utf-8"
    answer = StreamingHttpResponse(lines, content_type=kind)
    answer["Content-Disposition"] = f'attachment; filename="{name}.{form}"'
    answer["Cache-Control"] = "no-store, private"
    return answer


def file_of(job: ExportJob) -> StreamingHttpResponse:
    """The file of an export that is done."""
    return _file(exports.content(job), f"{job.kind}-{job.pk}", job.form)


class ImportsDoor(OperatorDoor):
    @extend_schema(
        operation_id="send_import",
        parameters=[KIND, NAME],
        request={_CSV: OpenApiTypes.BINARY, _XLSX: OpenApiTypes.BINARY},
        responses={201: ImportBody, **refusals(413, 422)},
    )
    def post(self, request: Request) -> Response:
        """Send a file, as the body itself: CSV in UTF-8 or GBK, or XLSX; at most 256 MiB. Workers
        read it and try each row out; nothing is applied before it is started."""
        operator = operator_of(request)
        name = request.query_params.get("name", "")
        if "\0" in name or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise pagination.BadQuery("name is text")
        job = imports.receive(
            operator,
            request.query_params.get("kind", ""),
            _pieces(request._request),
            name=name,
            by=person_of(request),
            at=clock.now(operator),
        )
        return Response(show_import(job), status=201)

    @extend_schema(
        operation_id="list_imports",
        parameters=[LIMIT, CURSOR],
        responses={200: ImportPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All imports, in the order they came."""
        rows = ImportJob.objects.filter(operator=operator_of(request)).order_by("id")
        return Response(
            pagination.page(
                request,
                rows,
                by="id",
                of_type=int,
                show=lambda some: [show_import(one) for one in some],
            )
        )


class ImportDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_import", parameters=[IMPORT], responses={200: ImportBody, **refusals(404)}
    )
    def get(self, request: Request, import_id: int) -> Response:
        """How far an import is."""
        return Response(show_import(imports.find(operator_of(request), import_id)))


class StartImportDoor(OperatorDoor):
    @extend_schema(
        operation_id="start_import",
        parameters=[IMPORT],
        request=None,
        responses={200: ImportBody, **refusals(404, 409)},
    )
    def post(self, request: Request, import_id: int) -> Response:
        """Apply a file that is `checked`. Again changes nothing; so does the same file again."""
        operator = operator_of(request)
        job = imports.start(operator, import_id, by=person_of(request), at=clock.now(operator))
        return Response(show_import(job))


class CancelImportDoor(OperatorDoor):
    @extend_schema(
        operation_id="cancel_import",
        parameters=[IMPORT],
        request=None,
        responses={200: ImportBody, **refusals(404)},
    )
    def post(self, request: Request, import_id: int) -> Response:
        """Go no further: what is applied stays."""
        operator = operator_of(request)
        return Response(show_import(imports.cancel(operator, import_id, at=clock.now(operator))))


class ImportResultDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_import_result",
        parameters=[
            IMPORT,
            OpenApiParameter("only", {"type": "string", "enum": ["rejected"]}),
        ],
        responses={
            (200, _CSV): OpenApiResponse(
                OpenApiTypes.STR, description=f"`{','.join(imports.RESULT)}`, a line for each row."
            ),
            **refusals(404),
        },
    )
    def get(self, request: Request, import_id: int) -> StreamingHttpResponse:
        """What became of each row, or would, where it is not applied yet."""
        only = request.query_params.get("only")
        if only not in (None, "rejected"):
            raise pagination.BadQuery("only is rejected, or is left out")
        job = imports.find(operator_of(request), import_id)
        rows: Iterator[Sequence[str]] = imports.result(job, only_rejected=only is not None)
        return _file(cells.encode(rows), f"import-{job.pk}")


class ExportsDoor(OperatorDoor):
    @extend_schema(
        operation_id="order_export",
        request=ExportOrder,
        responses={201: ExportBody, **refusals(404, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Have subscribers, coupons or the vouchers of a batch written to a CSV file or a
        workbook."""
        operator = operator_of(request)
        body = ExportOrder(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        job = exports.order(
            operator,
            said["kind"],
            language=said["language"],
            of=said.get("batch", ""),
            form=said["format"],
            by=person_of(request),
            at=clock.now(operator),
        )
        return Response(show_export(job), status=201)

    @extend_schema(
        operation_id="list_exports",
        parameters=[LIMIT, CURSOR],
        responses={200: ExportPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All exports, in the order they were asked for."""
        rows = ExportJob.objects.filter(operator=operator_of(request)).order_by("id")
        return Response(
            pagination.page(
                request,
                rows,
                by="id",
                of_type=int,
                show=lambda some: [show_export(one) for one in some],
            )
        )


class ExportDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_export", parameters=[EXPORT], responses={200: ExportBody, **refusals(404)}
    )
    def get(self, request: Request, export_id: int) -> Response:
        """How far an export is."""
        return Response(show_export(exports.find(operator_of(request), export_id)))


class ExportFileDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_export_file",
        parameters=[EXPORT],
        responses={
            (200, _CSV): OpenApiResponse(
                OpenApiTypes.STR, description="UTF-8 with a byte order mark; safe in spreadsheets."
            ),
            (200, _XLSX): OpenApiResponse(OpenApiTypes.BINARY, description="A workbook."),
            **refusals(404, 409),
        },
    )
    def get(self, request: Request, export_id: int) -> StreamingHttpResponse:
        """The file of an export that is done, for a week."""
        job = exports.finished(operator_of(request), export_id)
        return file_of(job)
