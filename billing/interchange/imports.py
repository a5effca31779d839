"""Imports: a file is kept as it came, read and tried out in chunks, then applied in chunks. The
only writer of ImportJob, ImportPart and ImportChunk.

A chunk is committed with the job's place: whoever goes on after a crash begins there, and of two
workers at one job the later notices. Trying out is doing it and taking it back: what it says is
what would become of the rows now.

Locks: the job, then whatever its rows take.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import IO

from django.db import connection, transaction

from billing.exports import cells
from billing.interchange import columns, kinds, reading
from billing.interchange.kinds import Outcome, Row
from billing.models import ImportChunk, ImportJob, ImportPart
from subscriptions.advisory import Lock
from subscriptions.errors import Conflict, DomainError, Invalid, NotFound
from subscriptions.models import Operator
from subscriptions.registry import REJECTED

State = ImportJob.State
CHUNK = 1000
PART = 512 * 1024
LARGEST = 256 * 1024 * 1024
MOST_ROWS = 2_000_000


class TooLarge(DomainError):
    status = 413
    cause = "too_large"


class NotChecked(Conflict):
    cause = "not_checked"


# Taking a file in --------------------------------------------------------------------------------


@transaction.atomic
def receive(
    operator: Operator,
    kind: str,
    pieces: Iterable[bytes],
    *,
    name: str = "",
    by: str,
    at: dt.datetime,
) -> ImportJob:
    """Keep a file, piece by piece as it comes: never all of it in memory. Workers then read it.

    Raises Invalid for a kind that is none and for an empty file, TooLarge; then nothing is kept.
    """
    if kind not in columns.BY_KIND:
        raise Invalid(f"kind is one of {', '.join(columns.BY_KIND)}")
    job = ImportJob.objects.create(
        operator=operator, kind=kind, name=name[:200], size=0, made_by=by, created_at=at
    )
    for nr, piece in enumerate(pieces):
        job.size += len(piece)
        if job.size > LARGEST:
            raise TooLarge(f"a file has at most {LARGEST // 2**20} MiB; send several")
        ImportPart.objects.create(job=job, nr=nr, content=piece)
    if not job.size:
        raise Invalid("the file is empty: send it as the request's body")
    job.save(update_fields=["size"])
    return job


def find(operator: Operator, job_id: int) -> ImportJob:
    """Raises NotFound."""
    found = ImportJob.objects.filter(operator=operator, pk=job_id).first()
    if found is None:
        raise NotFound("there is no such import")
    return found


def _locked(job_id: int) -> ImportJob:
    return ImportJob.objects.select_for_update(no_key=True).get(pk=job_id)


@transaction.atomic
def start(operator: Operator, job_id: int, *, by: str, at: dt.datetime) -> ImportJob:
    """Let workers apply a file that was tried out; again changes nothing. Rows that are rejected
    hinder no other. Raises NotFound, NotChecked."""
    find(operator, job_id)
    job = _locked(job_id)
    if job.state in (State.APPLYING, State.DONE):
        return job
    if job.state != State.CHECKED:
        raise NotChecked(f"it is {job.state}; a file is applied after it was checked")
    job.state, job.started_by = State.APPLYING, by
    if not job.read:
        job.state, job.finished_at = State.DONE, at
    job.save(update_fields=["state", "started_by", "finished_at"])
    return job


@transaction.atomic
def cancel(operator: Operator, job_id: int, *, at: dt.datetime) -> ImportJob:
    """Let nothing more of a file be read or applied: what is applied stays. Raises NotFound."""
    find(operator, job_id)
    job = _locked(job_id)
    if job.state not in (State.DONE, State.FAILED, State.CANCELLED):
        job.state, job.finished_at = State.CANCELLED, at
        job.save(update_fields=["state", "finished_at"])
        ImportPart.objects.filter(job=job).delete()
    return job


# Working -----------------------------------------------------------------------------------------


def waiting() -> list[int]:
    """Jobs at which there is something to do, the oldest first."""
    some = ImportJob.objects.filter(state__in=[State.CHECKING, State.APPLYING]).order_by("id")
    return list(some.values_list("pk", flat=True))


def work(job_id: int, *, instant: Callable[[], dt.datetime], more: Callable[[], bool]) -> None:
    """Go on with a job until it is done or `more` says no."""
    job = ImportJob.objects.select_related("operator").get(pk=job_id)
    if job.state == State.CHECKING:
        with _alone(job_id) as alone:
            if alone:
                _check(job, instant=instant, more=more)
    elif job.state == State.APPLYING:
        while more() and _apply_next(job, at=instant()):
            pass


def _check(job: ImportJob, *, instant: Callable[[], dt.datetime], more: Callable[[], bool]) -> None:
    try:
        with _spooled(job) as file, closing(reading.rows(file)) as found:
            fields = _header(job, found)
            named = ((nr, _row(fields, cells_)) for nr, cells_ in found)
            place = job.read
            for _ in islice(named, place):
                pass
            while rows := list(islice(named, CHUNK)):
                if not more() or not _try_out(job, place, rows, at=instant()):
                    return
                place += len(rows)
                if place > MOST_ROWS:
                    raise reading.Unreadable(f"a file has at most {MOST_ROWS} rows; send several")
    except (reading.Unreadable, columns.WrongHeader) as error:
        _fail(job, str(error), at=instant())
        return
    with transaction.atomic():
        held = _locked(job.pk)
        if held.state == State.CHECKING and held.read == place:
            held.state = State.CHECKED
            held.save(update_fields=["state"])
            ImportPart.objects.filter(job=job).delete()


@contextmanager
def _alone(job_id: int) -> Iterator[bool]:
    """Whether nobody else reads this file: it would be read for nothing."""
    keys = [Lock.IMPORT.value, job_id & 0x7FFFFFFF]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", keys)
        alone = bool(cursor.fetchone()[0])
    try:
        yield alone
    finally:
        if alone:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", keys)


@contextmanager
def _spooled(job: ImportJob) -> Iterator[IO[bytes]]:
    """The file of a job on this machine's disk, for as long as it is read."""
    with tempfile.TemporaryFile() as file:
        parts = ImportPart.objects.filter(job=job).order_by("nr")
        for nr in parts.values_list("nr", flat=True):
            file.write(bytes(parts.get(nr=nr).content))
        yield file


def _header(job: ImportJob, found: Iterator[tuple[int, list[str]]]) -> list[str | None]:
    first = next(found, None)
    if first is None:
        raise reading.Unreadable("there is no row in it")
    return columns.fields_of(job.kind, first[1])


def _row(fields: Sequence[str | None], given: Sequence[str]) -> Row:
    """A row by its fields. What our exports have put in front of a formula is taken away."""
    row: Row = {}
    for field, cell in zip(fields, given, strict=False):
        if field is not None:
            original = cells.original(cell)
            row[field] = original if cells.text(original) == cell else cell
    return row


class _TakeBack(Exception):
    pass


def _try_out(
    job: ImportJob, place: int, rows: Sequence[tuple[int, Row]], *, at: dt.datetime
) -> bool:
    """Keep a chunk with what would become of it; False where another worker is further."""
    with transaction.atomic():
        held = _locked(job.pk)
        if held.state != State.CHECKING or held.read != place:
            return False
        outcomes: list[Outcome] = []
        try:
            with transaction.atomic():
                outcomes = kinds.apply(
                    job.kind, job.operator, [row for _, row in rows], by=job.made_by, at=at
                )
                raise _TakeBack
        except _TakeBack:
            pass
        ImportChunk.objects.create(job=job, first=place, rows=rows, tried=outcomes)
        held.read = place + len(rows)
        held.tried = _counted(held.tried, outcomes)
        held.save(update_fields=["read", "tried"])
    return True


def _counted(before: dict[str, int], outcomes: Sequence[Outcome]) -> dict[str, int]:
    return dict(Counter(before) + Counter(one.status for one in outcomes))


@transaction.atomic
def _fail(job: ImportJob, problem: str, *, at: dt.datetime) -> None:
    held = _locked(job.pk)
    if held.state == State.CHECKING:
        held.state, held.problem, held.finished_at = State.FAILED, problem[:300], at
        held.save(update_fields=["state", "problem", "finished_at"])
        ImportPart.objects.filter(job=job).delete()


@transaction.atomic
def _apply_next(job: ImportJob, *, at: dt.datetime) -> bool:
    """Apply the next chunk; False where there is none."""
    held = _locked(job.pk)
    if held.state != State.APPLYING:
        return False
    chunk = ImportChunk.objects.get(job=job, first=held.applied)
    outcomes = kinds.apply(
        held.kind, job.operator, [row for _, row in chunk.rows], by=held.started_by, at=at
    )
    ImportChunk.objects.filter(job=job, first=chunk.first).update(outcomes=outcomes)
    held.applied += len(chunk.rows)
    held.outcomes = _counted(held.outcomes, outcomes)
    if held.applied == held.read:
        held.state, held.finished_at = State.DONE, at
    held.save(update_fields=["applied", "outcomes", "state", "finished_at"])
    return held.state == State.APPLYING


# Showing -----------------------------------------------------------------------------------------

RESULT = ("row", "key", "status", "cause", "detail")


def result(job: ImportJob, *, only_rejected: bool = False) -> Iterator[Sequence[str]]:
    """A line for each row: what became of it, or would, where it is not applied yet."""
    yield RESULT
    place = 0
    while place < job.read:
        chunk = ImportChunk.objects.filter(job=job, first=place).first()
        if chunk is None:  # forgotten meanwhile
            return
        for (nr, row), outcome in zip(chunk.rows, chunk.outcomes or chunk.tried, strict=True):
            status, cause, detail = outcome
            if not only_rejected or status == REJECTED:
                key = cells.text(kinds.key_of(job.kind, row))
                yield str(nr), key, status, cause, cells.text(detail)
        place += len(chunk.rows)


# Personal data is not kept for longer than its result is asked for.
KEPT = dt.timedelta(days=30)


def forget(operator: Operator, *, at: dt.datetime) -> int:
    """Drop the rows of jobs that are over for long; answers how many jobs."""
    old = ImportJob.objects.filter(operator=operator, finished_at__lt=at - KEPT)
    with_rows = set(
        ImportChunk.objects.filter(job__in=old).values_list("job_id", flat=True).distinct()
    )
    ImportChunk.objects.filter(job_id__in=with_rows).delete()
    return len(with_rows)
