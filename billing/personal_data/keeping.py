"""Files of personal data: ordered, made, handed out, forgotten. The only writer of their tables."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from collections.abc import Iterator
from typing import IO

from django.db import IntegrityError, transaction

from billing.models import PersonalDataExport, PersonalDataPart
from billing.personal_data import writing
from subscriptions.errors import NotFound
from subscriptions.models import Operator, Subscriber, User

log = logging.getLogger(__name__)

State = PersonalDataExport.State
KEPT = dt.timedelta(days=7)
# One is enough for so long.
_EVERY = dt.timedelta(hours=1)
_ATTEMPTS = 3
_PART = 1 << 20


def order(
    user: User, operator: Operator, subscriber: Subscriber, *, at: dt.datetime
) -> PersonalDataExport:
    """Have a file made; while one waits, or was ordered within the hour, it is that one."""
    latest = latest_of(user, operator)
    if latest is not None:
        fresh = latest.state == State.MADE and latest.ordered_at > at - _EVERY
        if fresh or latest.state == State.WAITING:
            return latest
    try:
        with transaction.atomic():
            return PersonalDataExport.objects.create(
                user=user, operator=operator, subscriber=subscriber, ordered_at=at
            )
    except IntegrityError:  # another tab was faster
        rows = PersonalDataExport.objects.filter(state=State.WAITING)
        return rows.get(user=user, operator=operator)


def latest_of(user: User, operator: Operator) -> PersonalDataExport | None:
    """The last that the user ordered at this operator."""
    rows = PersonalDataExport.objects.filter(user=user, operator=operator)
    return rows.order_by("-id").first()


def find(user: User, operator: Operator, export_id: int, *, at: dt.datetime) -> PersonalDataExport:
    """One of the user's own whose file is there. Raises NotFound, for anybody else's too."""
    rows = PersonalDataExport.objects.filter(pk=export_id, user=user, operator=operator)
    found = rows.filter(state=State.MADE, expires_at__gt=at).first()
    if found is None:
        raise NotFound("there is no such file")
    return found


def content(export: PersonalDataExport) -> Iterator[bytes]:
    """The file, a part after the other."""
    for nr in range(export.parts):
        part = PersonalDataPart.objects.filter(export=export, nr=nr).first()
        if part is None:  # forgotten meanwhile
            return
        yield bytes(part.content)


def waiting() -> list[tuple[int, Operator]]:
    """Those that are to be made, the oldest first, and whose they are."""
    rows = PersonalDataExport.objects.filter(state=State.WAITING).select_related("operator")
    return [(row.pk, row.operator) for row in rows.order_by("id")]


def make(export_id: int, *, at: dt.datetime) -> None:
    """Make a file that waits; of two at once one does. Given up when it has failed three times.

    It is written beside the database, in one snapshot, and then kept in one transaction: who dies
    half way leaves nothing behind.
    """
    with transaction.atomic():
        export = (
            PersonalDataExport.objects.select_for_update(
                of=("self",), skip_locked=True, no_key=True
            )
            .select_related("operator", "subscriber", "user")
            .filter(pk=export_id, state=State.WAITING)
            .first()
        )
        if export is None:
            return
        try:
            with transaction.atomic(), tempfile.TemporaryFile() as file:
                writing.write(file, export, at=at)
                size, parts = _keep(export, file)
        except Exception:
            log.exception("personal data %s could not be written", export_id)
            export.attempts += 1
            if export.attempts >= _ATTEMPTS:
                export.state = State.FAILED
            export.save(update_fields=["attempts", "state"])
            return
        export.state, export.size, export.parts = State.MADE, size, parts
        export.made_at, export.expires_at = at, at + KEPT
        export.save(update_fields=["state", "size", "parts", "made_at", "expires_at"])


def _keep(export: PersonalDataExport, file: IO[bytes]) -> tuple[int, int]:
    """The file into parts; its size, and how many they are."""
    size, nr = file.seek(0, 2), 0
    file.seek(0)
    while piece := file.read(_PART):
        PersonalDataPart.objects.create(export=export, nr=nr, content=piece)
        nr += 1
    return size, nr


@transaction.atomic
def forget(operator: Operator, *, at: dt.datetime) -> int:
    """Drop the files that have expired; answers how many."""
    old = PersonalDataExport.objects.filter(operator=operator, state=State.MADE, expires_at__lte=at)
    return _drop(list(old.select_for_update(no_key=True).values_list("pk", flat=True)))


@transaction.atomic
def forget_user(user: User) -> None:
    """Drop all files of a user who leaves; what waits is not made any more."""
    own = PersonalDataExport.objects.filter(user=user)
    own.filter(state=State.WAITING).update(state=State.FAILED)
    _drop(list(own.filter(state=State.MADE).values_list("pk", flat=True)))


def _drop(ids: list[int]) -> int:
    PersonalDataPart.objects.filter(export_id__in=ids).delete()
    return PersonalDataExport.objects.filter(pk__in=ids).update(state=State.EXPIRED)
