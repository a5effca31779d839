"""The project: settings, URLs, and what runs them."""

# Tasks find the broker through the current app: it has to be there in every process.
from config.celery import app

__all__ = ["app"]
