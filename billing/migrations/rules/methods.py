"""Saved methods are kept: one that is removed is still there."""

RULES = [
    "CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_paymentmethod FOR EACH STATEMENT"
    " EXECUTE FUNCTION billing_refuse('is never deleted: remove it')",
    "CREATE TRIGGER kept BEFORE TRUNCATE ON billing_paymentmethod FOR EACH STATEMENT"
    " EXECUTE FUNCTION billing_refuse('is kept')",
]
