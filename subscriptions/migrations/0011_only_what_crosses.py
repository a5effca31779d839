"""A draw looks for thresholds only where one is crossed.

Before, any bucket drawn beyond its 80 % sent the whole batch through a second look at its buckets,
and among 800 subscribers one nearly always is.
"""

from importlib import import_module

from django.db import migrations

BEFORE: str = import_module("subscriptions.migrations.0002_draw_in_one_call").CREATE.replace(
    "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
)
_ANY_BEYOND = """
                   AND (u.used - u.units < u.granted - u.granted / 2
                        OR u.used >= u.granted - u.granted / 5))
"""
_ONLY_CROSSED = """
                   AND (u.used - u.units < u.granted - u.granted / 2
                        OR (u.used >= u.granted - u.granted / 5
                            AND u.used - u.units < u.granted - u.granted / 5)
                        OR u.used = u.granted))
"""
assert _ANY_BEYOND in BEFORE
AFTER = BEFORE.replace(_ANY_BEYOND, _ONLY_CROSSED)


class Migration(migrations.Migration):
    dependencies = [("subscriptions", "0010_fewer_analyses")]

    operations = [migrations.RunSQL(AFTER, BEFORE)]
