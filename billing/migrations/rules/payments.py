"""Payments and what dunning did are only added to."""

_STEPS = ("billing_payment", "billing_dunningevent")
RULES = [
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is append-only: correct it by a further row')"
        for table in _STEPS
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _STEPS
    ),
]
