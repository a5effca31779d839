"""A list of a table: newest first, searched and filtered by what has an index, and read only.

There is no count: a page asks for one row more than it shows. Where a table is led by its
subscriber, a list is of one (`narrow`): somebody is looked for first. For example::

    @page
    class Coupons(List):
        name, address, title = "coupons", "coupons/", _("Coupons")
        section, icon = Section.PRODUCTS, "sell"
        roles = (Role.PRODUCT, Role.AGENT)
        model = Coupon
        columns = (Column("code"), Column("name"), Column("created_at"))
        search = (begins("code"),)
        filters = (Choice("covers"),)

With it comes the page of each row (`coupons_row`), which shows personal data only when somebody
says why, and writes that down.
"""

from __future__ import annotations

import base64
import csv
import datetime as dt
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast
from urllib.parse import quote, unquote

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured, ValidationError
from django.db import DataError, transaction
from django.db.models import Field, Model, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from subscriptions import periods
from subscriptions.console import finding, words
from subscriptions.console.cells import Column
from subscriptions.console.pages import Page, Text
from subscriptions.models import Operator, Subscriber

_MOST_IN_A_FILE = 100_000
# A filter that few rows pass looks through so many, and then says that it goes on.
_LOOKED_THROUGH = 20_000

# What reading a cursor that we never gave out may end in.
_NO_CURSOR = (ValueError, TypeError, ValidationError, AttributeError, OverflowError, RecursionError)

Look = Callable[[Operator, str], Q | None]


def exact(field: str) -> Look:
    return lambda operator, text: Q(**{field: text})


def begins(field: str) -> Look:
    return lambda operator, text: Q(**{f"{field}__startswith": text})


def number(field: str = "id") -> Look:
    """By a whole number, where the text is one."""

    def look(operator: Operator, text: str) -> Q | None:
        return (
            Q(**{field: int(text)})
            if text.isascii() and text.isdigit() and len(text) < 19
            else None
        )

    return look


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def of_subscriber(field: str = "subscriber_id") -> Look:
    """By everything that a subscriber is found by."""

    def look(operator: Operator, text: str) -> Q | None:
        ids = finding.subscriber_ids(operator, text)
        return Q(**{f"{field}__in": ids}) if ids else None

    return look


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a field's values."""

    field: str

    def title(self) -> str:
        return words.field(self.field)

    def options(self, model: type[Model]) -> list[tuple[str, str]]:
        field = model._meta.get_field(self.field)
        assert isinstance(field, Field)
        return [(str(value), words.state(str(value))) for value, _label in field.flatchoices]

    def apply(self, rows: Rows, value: str) -> Rows:
        return rows.filter(**{self.field: value})


@dataclass(frozen=True, slots=True)
class Open:
    """Whether something has ended: a field that is null until then."""

    field: str
    yes: Text
    no: Text

    def title(self) -> str:
        return words.field(self.field)

    def options(self, model: type[Model]) -> list[tuple[str, str]]:
        return [("open", str(self.yes)), ("ended", str(self.no))]

    def apply(self, rows: Rows, value: str) -> Rows:
        return rows.filter(**{f"{self.field}__isnull": value == "open"})


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.datetime | dt.date) else value


def _cursor(values: Sequence[Any]) -> str:
    text = json.dumps([_plain(value) for value in values])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _compared(names: Sequence[str], values: Sequence[Any], than: str, at_last: str) -> Q:
    """`(a, b) < (x, y)` as an index reads it: a <= x, and then either a < x or b < y."""
    wanted = Q(**{f"{names[-1]}__{at_last}": values[-1]})
    for name, value in reversed(list(zip(names[:-1], values[:-1], strict=True))):
        wanted = Q(**{f"{name}__{than}e": value}) & (Q(**{f"{name}__{than}": value}) | wanted)
    return wanted


def _up_to(names: Sequence[str], values: Sequence[Any]) -> Q:
    """This row and what comes before it in a list."""
    return _compared(names, values, "gt", "gte")


Rows = QuerySet[Any, Any]
Filter = Choice | Open


class List(Page):
    """The rows of a table that are the operator's, a page of them at a time."""

    model: ClassVar[type[Model]]
    columns: ClassVar[Sequence[Column]]
    # A field that is the operator; found by itself where it is called so.
    of_operator: ClassVar[str] = ""
    related: ClassVar[Sequence[str]] = ()
    # Unique within the operator (or the subscriber), as an index has it; newest first.
    sort: ClassVar[Sequence[str]] = ("id",)
    search: ClassVar[Sequence[Look]] = ()
    # What is looked for among one subscriber's rows, where only those have an index.
    search_within: ClassVar[Sequence[Look]] = ()
    search_help: ClassVar[Text] = ""
    filters: ClassVar[Sequence[Filter]] = ()
    narrow: ClassVar[bool] = False
    empty: ClassVar[Text] = _("There is nothing here yet.")
    # Columns that nobody reads: keys of repetition, digests, secrets.
    hidden: ClassVar[frozenset[str]] = frozenset()
    # A page of somebody else's for a row, by its name and the field that it takes.
    leads_to: ClassVar[tuple[str, str]] = ("", "")
    per_page: ClassVar[int] = 50
    template_name = "console/list.html"

    @classmethod
    def brings(cls) -> Sequence[type[Page]]:
        return (row_page(cls),)

    # What is the operator's -------------------------------------------------------------------

    @classmethod
    def operators_way(cls) -> str:
        if cls.of_operator:
            return cls.of_operator
        for way in ("operator", "operator_id", "subscriber__operator"):
            try:
                cls.model._meta.get_field(way.partition("__")[0])
            except FieldDoesNotExist:
                continue
            return way
        return ""

    def rows(self) -> Rows:
        """All rows that may be seen here."""
        way = self.operators_way()
        found: Rows = self.model._default_manager.all()
        if way:
            found = found.filter(**{way: self.operator.pk})
        elif self.subscribers_way():
            own = Subscriber.objects.filter(operator=self.operator)
            found = found.filter(subscriber_id__in=own.values("pk"))
        else:
            raise ImproperlyConfigured(f"{type(self).__name__} does not say whose its rows are")
        return found.select_related(*self.related) if self.related else found

    def narrowed(self, rows: Rows) -> tuple[Rows, Subscriber | None]:
        """The rows of the subscriber that the address names, where it names one."""
        asked = self.request.GET.get("subscriber", "")
        if not _is_number(asked):
            return rows, None
        if not self.subscribers_way():
            raise Http404
        subscriber = Subscriber.objects.filter(operator=self.operator, pk=int(asked)).first()
        if subscriber is None:
            raise Http404
        return rows.filter(**{self.subscribers_way(): subscriber.pk}), subscriber

    @classmethod
    def subscribers_way(cls) -> str:
        """The field that says whose a row is; none where it is nobody's."""
        if cls.model is Subscriber:
            return "pk"
        names = {field.attname for field in cls.model._meta.concrete_fields}
        return "subscriber_id" if "subscriber_id" in names else ""

    # What is asked for ------------------------------------------------------------------------

    def context(self, **kwargs: Any) -> dict[str, Any]:
        text = self.request.GET.get("q", "").replace("\0", "").strip()[:256]
        rows, subscriber = self.narrowed(self.rows())
        every, chosen = rows, []
        for one in self.filters:
            value = self.request.GET.get(one.field, "")
            options = one.options(self.model)
            if value in dict(options):
                rows = one.apply(rows, value)
            chosen.append((one, value, options))
        asks = bool(text or subscriber or not self.narrow)
        looks = (*self.search_within, *self.search) if subscriber else self.search
        last = None
        if any(value for _one, value, _all in chosen) and asks and not text and not subscriber:
            last = self.last_looked_at(every)
            if last is not None:
                rows = rows.filter(_up_to(self.sort, last))
        found = self.page_of(rows, text, looks) if asks else []
        if len(found) > self.per_page:
            last = self.held(found[self.per_page - 1])
        found = found[: self.per_page]
        return {
            "headings": [column.heading() for column in self.columns],
            "figures": [nr for nr, column in enumerate(self.columns, start=1) if column.figure()],
            "lines": [
                (
                    self.link(row),
                    [(column.text(row), column.figure()) for column in self.columns],
                )
                for row in found
            ],
            "more": "" if last is None else _cursor(last),
            "query": text,
            "subscriber": subscriber,
            "chosen": chosen,
            "asks": asks,
            "filtered": bool(text or subscriber or any(value for _one, value, _all in chosen)),
            "kept": self.kept(),
            "deeds": self.deeds(),
        }

    def deeds(self) -> list[tuple[Text, str]]:
        """What may be done here: title and address."""
        return []

    def kept(self) -> str:
        """The parameters that the next page needs too."""
        given = self.request.GET.copy()
        given.pop("after", None)
        return given.urlencode()

    def page_of(self, rows: Rows, text: str, looks: Sequence[Look]) -> list[Any]:
        """One page and one row more; of several ways to search the first that finds something."""
        rows = rows.order_by(*(f"-{name}" for name in self.sort))
        after = self.after()
        if after is not None:
            rows = rows.filter(after)
        if not text:
            return list(rows[: self.per_page + 1])
        for look in looks:
            wanted = look(self.operator, text)
            if wanted is None:
                continue
            found = list(rows.filter(wanted)[: self.per_page + 1])
            if found:
                return found
        return []

    # Keys and cursors -------------------------------------------------------------------------

    def held(self, row: Any) -> list[Any]:
        """What a cursor names the row by."""
        return [getattr(row, name) for name in self.sort]

    def last_looked_at(self, rows: Rows) -> list[Any] | None:
        """Where a filter stops looking on this page; none where it sees all that is left."""
        rows = rows.order_by(*(f"-{name}" for name in self.sort))
        after = self.after()
        if after is not None:
            rows = rows.filter(after)
        found = rows.values_list(*self.sort)[_LOOKED_THROUGH : _LOOKED_THROUGH + 1]
        return next((list(values) for values in found), None)

    def after(self) -> Q | None:
        """What comes after the row that the cursor names."""
        given = self.request.GET.get("after", "")
        if not given:
            return None
        try:
            held = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
            values = [
                cast("Field[Any, Any]", self.model._meta.get_field(name)).to_python(value)
                for name, value in zip(self.sort, held, strict=True)
            ]
        except _NO_CURSOR as error:
            raise Http404 from error
        if any(value is None for value in values):
            raise Http404
        return _compared(self.sort, values, "lt", "lt")

    @classmethod
    def key_fields(cls) -> list[str]:
        return [field.attname for field in cls.model._meta.pk_fields]

    @classmethod
    def key_of(cls, row: Any) -> str:
        parts = (getattr(row, name) for name in cls.key_fields())
        return "~".join(
            quote(
                part.isoformat() if isinstance(part, dt.datetime | dt.date) else str(part), safe=""
            )
            for part in parts
        )

    def link(self, row: Any) -> str:
        from subscriptions.console.site import site

        page, field = self.leads_to
        if page in site.pages:
            return reverse(f"admin:{page}", args=[getattr(row, field)])
        return reverse(f"admin:{self.name}_row", args=[self.key_of(row)])

    # Files ------------------------------------------------------------------------------------

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        """The list as a file, as it is filtered, personal data masked; why is asked and kept."""
        reason = request.POST.get("reason", "").strip()
        if not reason:
            return self.show(status=422, needs_reason=True, **self.context())
        rows, subscriber = self.narrowed(self.rows())
        if self.narrow and subscriber is None:
            raise Http404
        for one in self.filters:
            value = request.GET.get(one.field, "")
            if value in dict(one.options(self.model)):
                rows = one.apply(rows, value)
        rows = rows.order_by(*(f"-{name}" for name in self.sort))[:_MOST_IN_A_FILE]
        self.visit.note(
            f"{self.name}.exported",
            subscriber=subscriber,
            after={"filters": request.GET.urlencode()},
            reason=reason,
        )
        # What is streamed is made when language and time zone are no more those of the page.
        lines = self._lines(rows, [column.heading() for column in self.columns])
        answer = StreamingHttpResponse(lines, content_type="text/csv; charset=utf-8")
        day = periods.day_of(self.now, self.visit.zone)
        answer["Content-Disposition"] = f'attachment; filename="{self.name}-{day}.csv"'
        return answer

    def _lines(self, rows: Rows, headings: list[str]) -> Iterator[bytes]:
        written = io.StringIO()
        file = csv.writer(written)
        # So that spreadsheets know what the letters are.
        yield "\ufeff".encode()
        file.writerow(headings)
        for row in rows.iterator(chunk_size=2000):
            file.writerow([column.raw(row, self.visit.zone) for column in self.columns])
            if written.tell() > 65536:
                yield written.getvalue().encode()
                written.seek(0)
                written.truncate()
        yield written.getvalue().encode()


class Row(Page):
    """One row of a list: all that it holds. Made for each list by `row_page`."""

    of: ClassVar[type[List]]
    template_name = "console/row.html"
    row: Any

    def find(self, key: str) -> Any:
        lister = self.of()
        lister.setup(self.request)
        lister.visit = self.visit
        names = self.of.key_fields()
        parts = [unquote(part) for part in key.split("~")]
        if len(parts) != len(names):
            raise Http404
        try:
            wanted = {
                name: cast("Field[Any, Any]", self.of.model._meta.get_field(name)).to_python(part)
                for name, part in zip(names, parts, strict=True)
            }
            with transaction.atomic():
                row = lister.rows().filter(**wanted).first()
        except (ValidationError, ValueError, DataError, OverflowError) as error:
            raise Http404 from error
        if row is None:
            raise Http404
        return row

    def fields(self) -> list[Column]:
        named = [
            column
            for column in self.of.columns
            if "." in column.name and column.name != "subscriber.external_id"
        ]
        # Whose it is stands above them, by the name that people know.
        hidden = {"operator", "pk", "subscriber", "subscriber_id", *self.of.hidden}
        known = {column.name: column for column in self.of.columns}
        fields = [
            replace(known.get(field.attname) or Column(field.attname), says=None)
            for field in self.of.model._meta.concrete_fields
            if field.name not in hidden and not field.attname.endswith("_currency")
        ]
        return [*named, *fields]

    def heading(self) -> Text:
        """As the list calls it, masked."""
        return self.of.columns[0].text(self.row) or self.of.title

    def breadcrumbs(self) -> list[tuple[Text, str]]:
        return [(self.of.title, reverse(f"admin:{self.of.name}"))]

    def subscriber(self) -> Subscriber | None:
        if isinstance(self.row, Subscriber):
            return self.row
        subscriber_id = getattr(self.row, "subscriber_id", None)
        if not subscriber_id:
            return None
        return Subscriber.objects.filter(operator=self.operator, pk=subscriber_id).first()

    def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        self.row = self.find(kwargs["key"])
        self.saw(self.subscriber())
        return self._show(shown=False)

    def post(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        """Show what is masked, once, to somebody who says why."""
        self.row = self.find(kwargs["key"])
        reason = request.POST.get("reason", "").strip()
        if not reason:
            return self._show(shown=False, needs_reason=True, status=422)
        masked = [column.name for column in self.fields() if column.mask()]
        self.visit.note(
            f"{self.of.name}.shown",
            about=f"{self.of.model._meta.model_name}/{self.row}",
            subscriber=self.subscriber(),
            after={"fields": masked},
            reason=reason,
        )
        return self._show(shown=True)

    def _show(self, *, shown: bool, status: int = 200, **more: Any) -> HttpResponse:
        fields = self.fields()
        subscriber = self.subscriber()
        return self.show(
            status=status,
            facts=[
                *self.whose(subscriber),
                *(
                    (column.heading(), text, column.figure())
                    for column in fields
                    if (text := column.text(self.row, shown=shown))
                ),
            ],
            masked=not shown and any(column.mask() for column in fields),
            subscriber=subscriber,
            lists=self.lists(subscriber),
            **more,
        )

    def whose(self, subscriber: Subscriber | None) -> list[tuple[str, str, bool]]:
        if subscriber is None or subscriber is self.row:
            return []
        return [(words.field("subscriber.external_id"), subscriber.external_id, False)]

    def lists(self, subscriber: Subscriber | None) -> list[tuple[Text, str]]:
        """The lists that have more about the same subscriber."""
        from subscriptions.console.site import site

        if subscriber is None:
            return []
        found = []
        for page in site.pages.values():
            if not issubclass(page, List):
                continue
            if page is self.of or not self.visit.may(page.permission()):
                continue
            if page.subscribers_way():
                way = reverse(f"admin:{page.name}")
                found.append((page.title, f"{way}?subscriber={subscriber.pk}"))
        return found


def row_page(of: type[List]) -> type[Row]:
    """The page of each row of a list, for the same people."""
    return type(
        f"{of.__name__}Row",
        (Row,),
        {
            "__module__": of.__module__,
            "of": of,
            "name": f"{of.name}_row",
            "address": f"{of.address}<path:key>/",
            "title": of.title,
            "roles": of.roles,
            "parent": of.name,
        },
    )
