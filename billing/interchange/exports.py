"""Exports: a table of ours into a CSV file or a workbook, part by part in the background. The only
writer of ExportJob and ExportPart.

Rows come in the order of their key, so that each part says where the next begins; what changes
meanwhile is in it or not. Text that a spreadsheet would run has an apostrophe in front, which
imports take away.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import transaction

from billing.exports import cells
from billing.interchange import columns, workbooks
from billing.models import ExportJob, ExportPart, Voucher
from billing.vouchers import keeping
from subscriptions import registry
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Coupon, Operator, Subscriber, Subscription

State, Form = ExportJob.State, ExportJob.Form
_PIECE = 1 << 19
AT_ONCE = 5000
_BOM = b"\xef\xbb\xbf"  # else spreadsheets take Chinese for something else


class NotDone(Conflict):
    cause = "not_done"


class Page(NamedTuple):
    """Rows, and the key of the last of them; no rows: there are no more."""

    rows: list[Sequence[str]]
    after: Any


def order(
    operator: Operator,
    kind: str,
    *,
    language: str,
    of: str = "",
    form: str = Form.CSV,
    by: str,
    at: dt.datetime,
) -> ExportJob:
    """Have a table written; `of` is the code of a batch, for vouchers. Raises Invalid, NotFound."""
    if kind not in _PAGES:
        raise Invalid(f"kind is one of {', '.join(_PAGES)}")
    if form not in Form.values:
        raise Invalid(f"a file is in one of {', '.join(Form.values)}")
    if (kind == "vouchers") != bool(of):
        raise Invalid("vouchers are exported by batch, and nothing else is")
    if of:
        keeping.find_batch(operator, of)
    return ExportJob.objects.create(
        operator=operator,
        kind=kind,
        language=language,
        of=of,
        form=form,
        made_by=by,
        created_at=at,
    )


def find(operator: Operator, job_id: int) -> ExportJob:
    """Raises NotFound."""
    found = ExportJob.objects.filter(operator=operator, pk=job_id).first()
    if found is None:
        raise NotFound("there is no such export")
    return found


def finished(operator: Operator, job_id: int) -> ExportJob:
    """An export whose file is there. Raises NotFound, NotDone."""
    job = find(operator, job_id)
    if job.state != State.DONE:
        raise NotDone(f"{job.rows} rows are written; ask again later")
    return job


def waiting() -> list[int]:
    """Jobs that are not done, the oldest first."""
    working = ExportJob.objects.filter(state=State.WORKING).order_by("id")
    return list(working.values_list("pk", flat=True))


def work(job_id: int, *, instant: Callable[[], dt.datetime], more: Callable[[], bool]) -> None:
    """Go on with an export until it is done or `more` says no."""
    while more() and _write_next(job_id, at=instant()):
        pass


@transaction.atomic
def _write_next(job_id: int, *, at: dt.datetime) -> bool:
    """Write the next part; False where there is none, or another worker writes it."""
    job = (
        ExportJob.objects.select_for_update(of=("self",), skip_locked=True, no_key=True)
        .select_related("operator")
        .filter(pk=job_id, state=State.WORKING)
        .first()
    )
    if job is None:
        return False
    page = _PAGES[job.kind](job)
    content = b"".join(cells.encode(page.rows)) if page.rows else b""
    if not job.parts:
        header = b"".join(cells.encode([columns.header_of(job.kind, job.language)]))
        content = _BOM + header + content
    if content:
        ExportPart.objects.create(job=job, nr=job.parts, content=content)
        job.parts += 1
    if page.rows:
        job.rows, job.after = job.rows + len(page.rows), page.after
    if len(page.rows) < AT_ONCE:
        if job.form == Form.XLSX:
            _bind(job)
        job.state, job.finished_at = State.DONE, at
    job.save(update_fields=["rows", "after", "parts", "state", "finished_at"])
    return job.state == State.WORKING


def _bind(job: ExportJob) -> None:
    """A workbook in the place of the rows that were written for it."""
    with tempfile.TemporaryFile() as file:
        workbooks.write(workbooks.rows_of(content(job)), file)
        ExportPart.objects.filter(job=job).delete()
        file.seek(0)
        job.parts = 0
        while piece := file.read(_PIECE):
            ExportPart.objects.create(job=job, nr=job.parts, content=piece)
            job.parts += 1


def content(job: ExportJob) -> Iterator[bytes]:
    """The file, a part after the other."""
    for nr in range(job.parts):
        part = ExportPart.objects.filter(job=job, nr=nr).first()
        if part is None:  # forgotten meanwhile
            return
        yield bytes(part.content)


KEPT = dt.timedelta(days=7)


def forget(operator: Operator, *, at: dt.datetime) -> int:
    """Drop the files of exports that were done long ago; answers how many parts."""
    old = ExportJob.objects.filter(operator=operator, finished_at__lt=at - KEPT)
    return ExportPart.objects.filter(job__in=old).delete()[0]


# Tables ------------------------------------------------------------------------------------------


def _subscribers(job: ExportJob) -> Page:
    zone = ZoneInfo(job.operator.time_zone)
    after = job.after or ""
    found = list(
        Subscriber.objects.filter(operator=job.operator, external_id__gt=after).order_by(
            "external_id"
        )[:AT_ONCE]
    )
    ids = [one.pk for one in found]
    subjects = registry.subjects_of(ids)
    plans: dict[int, str] = defaultdict(str)
    held = Subscription.objects.filter(subscriber_id__in=ids, ends_at__isnull=True)
    plans.update(held.values_list("subscriber_id", "plan__code"))
    rows = [
        [
            *map(cells.text, (one.external_id, one.name, one.kind)),
            cells.text(";".join(subjects.get(one.pk, []))),
            *map(cells.text, (one.msisdn, one.email, plans[one.pk])),
            cells.time(one.created_at, zone),
        ]
        for one in found
    ]
    return Page(list(rows), found[-1].external_id if found else after)


def _coupons(job: ExportJob) -> Page:
    zone = ZoneInfo(job.operator.time_zone)
    found = list(
        Coupon.objects.filter(operator=job.operator, code__gt=job.after or "").order_by("code")[
            :AT_ONCE
        ]
    )
    rows = [
        [
            one.code,
            cells.text(one.name),
            _or_none(one.percent),
            "" if one.amount is None else cells.amount(one.amount.amount),
            "" if one.price is None else cells.amount(one.price.amount),
            one.covers,
            _or_none(one.periods),
            ";".join(one.plans),
            "true" if one.first_subscription else "false",
            cells.time(one.redeemable_from, zone),
            cells.time(one.redeemable_until, zone),
            _or_none(one.max_redemptions),
            str(one.redeemed),
            cells.time(one.created_at, zone),
        ]
        for one in found
    ]
    return Page(list(rows), found[-1].code if found else job.after)


def _vouchers(job: ExportJob) -> Page:
    zone = ZoneInfo(job.operator.time_zone)
    batch = keeping.find_batch(job.operator, job.of)
    found = list(
        Voucher.objects.filter(batch=batch, nr__gt=job.after or 0)
        .select_related("subscriber")
        .order_by("nr")[:AT_ONCE]
    )
    rows = [
        [
            keeping.serial_of(batch, one.nr),
            one.state,
            "",
            cells.time(one.changed_at, zone),
            "" if one.subscriber is None else cells.text(one.subscriber.external_id),
            cells.amount(batch.amount),
        ]
        for one in found
    ]
    return Page(list(rows), found[-1].nr if found else job.after)


def _or_none(value: object) -> str:
    return "" if value is None else str(value)


_PAGES: dict[str, Callable[[ExportJob], Page]] = {
    "subscribers": _subscribers,
    "coupons": _coupons,
    "vouchers": _vouchers,
}
