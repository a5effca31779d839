"""Files for the carrier's billing: what each said stays as it was said."""

_TABLES = ("billing_chargefile", "billing_chargeline")
RULES = [
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('was told to the carrier: it stays')"
        for table in _TABLES
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _TABLES
    ),
]
