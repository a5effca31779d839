"""Tables of others that come in, and ours that go out, as files: how far each is."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.models import Operator


class ImportJob(models.Model):
    """A file that somebody sent, read and tried out first, then applied where they say so.

    `checking` and `applying` are the worker's; each chunk of rows is committed with its place, so
    that a worker who was killed is followed by one who goes on there. Written by
    billing/interchange/imports.py only, as parts and chunks are.
    """

    class State(models.TextChoices):
        CHECKING = "checking"
        CHECKED = "checked"
        APPLYING = "applying"
        DONE = "done"
        FAILED = "failed"  # no such file: nothing of it was applied
        CANCELLED = "cancelled"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=16)
    name = models.CharField(max_length=200, blank=True, default="")
    size = models.BigIntegerField()  # bytes
    state = models.CharField(max_length=9, choices=State.choices, default=State.CHECKING)
    problem = models.CharField(max_length=300, blank=True, default="")  # why it failed
    read = models.PositiveIntegerField(default=0)  # rows, with those tried out
    applied = models.PositiveIntegerField(default=0)  # rows
    tried = models.JSONField(default=dict)  # how many rows would have which outcome
    outcomes = models.JSONField(default=dict)  # how many have
    made_by = models.CharField(max_length=100)  # the key's name
    created_at = models.DateTimeField()  # the operator's time
    started_by = models.CharField(max_length=100, blank=True, default="")
    finished_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[ImportJob]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="import_list"),
            models.Index(
                fields=["id"],
                name="import_waiting",
                condition=Q(state__in=["checking", "applying"]),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="import_applies_what_it_read", condition=Q(applied__lte=F("read"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class ImportPart(models.Model):
    """Some hundred kilobytes of a file as it was sent; gone when it is read."""

    pk = models.CompositePrimaryKey("job_id", "nr")
    job = models.ForeignKey(ImportJob, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveIntegerField()
    content = models.BinaryField()

    objects: models.Manager[ImportPart]

    def __str__(self) -> str:
        return f"part {self.nr} of import {self.job_id}"


class ImportChunk(models.Model):
    """Rows of a file, as fields; what would become of each, and what has, once it is applied.

    `rows` are [number in the file, {field: text}], outcomes [status, cause, detail] in their order.
    """

    pk = models.CompositePrimaryKey("job_id", "first")
    job = models.ForeignKey(ImportJob, models.PROTECT, related_name="+", db_index=False)
    first = models.PositiveIntegerField()  # how many rows come before it
    rows = models.JSONField()
    tried = models.JSONField()
    outcomes = models.JSONField(null=True, blank=True)

    objects: models.Manager[ImportChunk]

    def __str__(self) -> str:
        return f"from {self.first} of import {self.job_id}"


class ExportJob(models.Model):
    """A table of ours on its way into a file, a part after the other.

    `after` is the key of the last row that is in a part. A workbook is made of all at the end.
    Written by billing/interchange/exports.py only, as parts are.
    """

    class State(models.TextChoices):
        WORKING = "working"
        DONE = "done"

    class Form(models.TextChoices):
        CSV = "csv"
        XLSX = "xlsx"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=16)
    language = models.CharField(max_length=2)
    form = models.CharField(max_length=4, choices=Form.choices, default=Form.CSV)
    of = models.CharField(max_length=64, blank=True, default="")  # a batch of vouchers
    state = models.CharField(max_length=7, choices=State.choices, default=State.WORKING)
    rows = models.PositiveIntegerField(default=0)
    after = models.JSONField(null=True, blank=True)
    parts = models.PositiveIntegerField(default=0)
    made_by = models.CharField(max_length=100)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[ExportJob]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "id"], name="export_list"),
            models.Index(fields=["id"], name="export_waiting", condition=Q(state="working")),
        ]
        constraints = [
            models.CheckConstraint(name="export_in_a_form", condition=Q(form__in=["csv", "xlsx"])),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class ExportPart(models.Model):
    """Rows of an export, as bytes of its file."""

    pk = models.CompositePrimaryKey("job_id", "nr")
    job = models.ForeignKey(ExportJob, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveIntegerField()
    content = models.BinaryField()

    objects: models.Manager[ExportPart]

    def __str__(self) -> str:
        return f"part {self.nr} of export {self.job_id}"
