"""How the platform's own jobs fare, for those who run it."""

from __future__ import annotations

from django.db import models


class Job(models.Model):
    """A job by its task's name, and what became of it. Written by subscriptions/jobs.py only.

    Times are the wall's: jobs are the platform's, not an operator's. Counts are figures, no books.
    """

    name = models.CharField(max_length=200, primary_key=True)
    runs = models.BigIntegerField()
    failures = models.BigIntegerField()
    ended_at = models.DateTimeField()
    succeeded_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    seconds = models.FloatField()  # the last run
    slowest_seconds = models.FloatField()
    error = models.CharField(max_length=300, blank=True, default="")  # of the last failure

    objects: models.Manager[Job]

    def __str__(self) -> str:
        return self.name
