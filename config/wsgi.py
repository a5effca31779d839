"""The WSGI application."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

_django = get_wsgi_application()

from metering.api import usage_records  # noqa: E402  # models need the applications to be loaded

_HOT = "/api/v1/usage-records"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The hot address goes to its door at once, all else through Django."""
    if environ["PATH_INFO"] == _HOT and environ["REQUEST_METHOD"] == "POST":
        return usage_records.wsgi(environ, start_response)
    return _django(environ, start_response)


# A batch makes tens of thousands of short-lived tuples and no cycles: the default thresholds look
# for cycles several times a batch, a tenth of a web worker's time.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 20, 100)
