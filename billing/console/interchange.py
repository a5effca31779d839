"""Tables that come in and go out as files: tried out first, applied in the background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.translation import get_language, pgettext_lazy
from django.utils.translation import gettext as now_
from django.utils.translation import gettext_lazy as _

from billing.api.interchange import file_of
from billing.exports import cells
from billing.interchange import exports, imports
from billing.interchange.columns import BY_KIND
from billing.models import ExportJob, ImportJob
from subscriptions.console.deeds import Deed, Record, Why
from subscriptions.console.pages import Page, Section, Text, page
from subscriptions.errors import DomainError, NotFound
from subscriptions.models import Role
from subscriptions.templatetags.words import word

ROLES = (Role.OPERATIONS, Role.PRODUCT, Role.FINANCE)
_MOST = 30
_KINDS = tuple(BY_KIND)
# What became of a row, or would.
_OUTCOMES: dict[str, Text] = {
    "created": pgettext_lazy("row", "Added"),
    "updated": pgettext_lazy("row", "Changed"),
    "unchanged": pgettext_lazy("row", "As it was"),
    "rejected": pgettext_lazy("row", "Refused"),
}
# How many refused rows are on the page; all of them are in the file.
_SHOWN = 20


@page
class Files(Page):
    name = "files"
    address = "files/"
    title = _("Import and export")
    help = _(
        "Subscribers, coupons and vouchers as CSV or XLSX. A file is tried out before "
        "anything of it happens."
    )
    section, icon, order = Section.CUSTOMERS, "import_export", 60
    roles = ROLES
    template_name = "console/files.html"

    def context(self, **kwargs: Any) -> dict[str, Any]:
        own = ImportJob.objects.filter(operator=self.operator).order_by("-pk")[:_MOST]
        out = ExportJob.objects.filter(operator=self.operator).order_by("-pk")[:_MOST]
        return {
            "imports": list(own),
            "exports": list(out),
            "may": self.visit.may(SendFile.permission()),
            "may_export": self.visit.may(OrderExport.permission()),
        }


class NewFile(Why):
    kind = forms.ChoiceField(
        label=_("What it holds"),
        choices=[],
        help_text=_("Its columns are read as those of this table."),
    )
    file = forms.FileField(
        label=_("File"),
        help_text=_(
            "CSV (UTF-8 or GBK) or XLSX; the first row names the columns, in Chinese or English."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kind"].choices = [(one, word(one)) for one in _KINDS]  # type: ignore[attr-defined]


@page
class SendFile(Deed):
    name = "send_file"
    address = "files/new/"
    title = _("Import a file")
    help = _("It is read and tried out at once; nothing changes until you start it.")
    roles = ROLES
    parent = "files"
    form_class, button = NewFile, _("Try it out")
    job: ImportJob | None = None

    def do(self, said: dict[str, Any]) -> Text:
        self.job = imports.receive(
            self.operator,
            said["kind"],
            said["file"].chunks(1 << 18),
            name=said["file"].name[:200],
            by=self.by(),
            at=self.now,
        )
        return now_("The file is being tried out.")

    def after(self, said: dict[str, Any]) -> dict[str, Any]:
        return {
            "kind": said["kind"],
            "name": said["file"].name[:200],
            "import": self.job and self.job.pk,
        }

    def back(self) -> str:
        if self.job is not None:
            return reverse("admin:import_job", args=[self.job.pk])
        return super().back()


def _counted(rows: Mapping[str, int]) -> list[tuple[Text, int]]:
    return [(_OUTCOMES.get(name, name), many) for name, many in sorted(rows.items())]


@page
class ImportPage(Record):
    name = "import_job"
    address = "files/<int:job_id>/"
    title = _("Import")
    roles = ROLES
    parent = "files"
    template_name = "console/import.html"
    job: ImportJob

    def heading(self) -> Text:
        return self.job.name or f"{word(self.job.kind)} {self.job.pk}"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.job = imports.find(self.operator, kwargs["job_id"])
        rejected: list[Any] = []
        counted = self.job.outcomes or self.job.tried
        if counted.get("rejected"):
            for row in imports.result(self.job, only_rejected=True):
                rejected.append(row)
                if len(rejected) > _SHOWN:
                    break
        context = {
            "job": self.job,
            "share": 1000 * self.job.applied // self.job.read if self.job.read else 0,
            "rejected": rejected[1:],
            "columns": rejected[0] if rejected else [],
            "tried": _counted(self.job.tried),
            "outcomes": _counted(self.job.outcomes),
            "busy": self.job.state in (ImportJob.State.CHECKING, ImportJob.State.APPLYING),
            "may_start": self.job.state == ImportJob.State.CHECKED
            and self.visit.may(StartImport.permission()),
            "may_cancel": self.job.finished_at is None
            and self.visit.may(CancelImport.permission()),
        }
        if request.headers.get("HX-Request"):
            return self.show("console/import_progress.html", **context)
        return self.show(**context)


@page
class ImportResult(Record):
    name = "import_result"
    address = "files/<int:job_id>/result.csv"
    title = _("What became of each row")
    roles = ROLES
    parent = "files"

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        job = imports.find(self.operator, kwargs["job_id"])
        only = request.GET.get("only") == "rejected"
        answer = StreamingHttpResponse(
            cells.encode(iter(imports.result(job, only_rejected=only))),
            content_type="text/csv; charset=utf-8",
        )
        answer["Content-Disposition"] = f'attachment; filename="import-{job.pk}.csv"'
        return answer


class OfImport(Deed):
    roles = ROLES
    parent = "files"
    job: ImportJob

    def find(self, **kwargs: Any) -> None:
        self.job = imports.find(self.operator, kwargs["job_id"])

    def about(self) -> str:
        return f"import/{self.job.pk}"

    def back(self) -> str:
        return reverse("admin:import_job", args=[self.job.pk])

    def facts(self) -> list[tuple[Text, Any]]:
        return [
            (_("File"), self.job.name),
            (_("What it holds"), word(self.job.kind)),
            (_("Rows"), self.job.read),
            *_counted(self.job.tried),
        ]


@page
class StartImport(OfImport):
    name = "start_import"
    address = "files/<int:job_id>/start/"
    title = _("Apply the file")
    help = _("Workers do it in the background; rows that are refused hinder no other.")
    button = _("Apply")

    def do(self, said: dict[str, Any]) -> Text:
        imports.start(self.operator, self.job.pk, by=self.by(), at=self.now)
        return now_("The file is being applied.")


@page
class CancelImport(OfImport):
    name = "cancel_import"
    address = "files/<int:job_id>/cancel/"
    title = _("Stop the import")
    help = _("Nothing more of it is read or applied; what is applied stays.")
    button, danger = _("Stop"), True

    def do(self, said: dict[str, Any]) -> Text:
        imports.cancel(self.operator, self.job.pk, at=self.now)
        return now_("The import is stopped.")


class NewExport(Why):
    kind = forms.ChoiceField(
        label=_("What"), choices=[], help_text=_("All rows of the table, as they stand.")
    )
    of = forms.CharField(
        label=_("Batch"),
        max_length=64,
        required=False,
        help_text=_("Of vouchers: the code of their batch."),
    )
    form = forms.ChoiceField(
        label=_("As"),
        choices=[("xlsx", "XLSX"), ("csv", "CSV")],
        required=False,
        help_text=_("All cells of a workbook are text."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kind"].choices = [(one, word(one)) for one in _KINDS]  # type: ignore[attr-defined]


@page
class OrderExport(Deed):
    name = "order_export"
    address = "files/export/"
    title = _("Export a table")
    help = _(
        "It is written in the background. Subscribers' phones and addresses are in it: "
        "who had it is written down."
    )
    roles = (Role.OPERATIONS, Role.FINANCE)
    parent = "files"
    form_class, button = NewExport, _("Export")

    def do(self, said: dict[str, Any]) -> Text:
        language = "zh" if (get_language() or "zh").startswith("zh") else "en"
        exports.order(
            self.operator,
            said["kind"],
            language=language,
            of=said["of"].replace("\0", ""),
            form=said["form"] or ExportJob.Form.CSV,
            by=self.by(),
            at=self.now,
        )
        return now_("The table is being written.")


@page
class ExportFile(Record):
    name = "export_file"
    address = "files/export/<int:job_id>/"
    title = _("Download")
    roles = OrderExport.roles
    parent = "files"
    changes = True  # an auditor reads the console, and takes no table of it home

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:  # type: ignore[override]
        try:
            job = exports.finished(self.operator, kwargs["job_id"])
        except NotFound:
            raise
        except DomainError:
            return HttpResponseRedirect(reverse("admin:files"))
        self.visit.note(
            self.name, about=f"export/{job.pk}", after={"kind": job.kind, "rows": job.rows}
        )
        return file_of(job)
