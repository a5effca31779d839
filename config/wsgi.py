"""The WSGI application."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_wsgi_application()

# A batch makes tens of thousands of short-lived tuples and no cycles: the default thresholds look
# for cycles several times a batch, a tenth of a web worker's time.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 20, 100)
