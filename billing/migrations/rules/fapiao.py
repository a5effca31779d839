"""e-fapiao: what was asked of the tax platform stays as it was asked."""

_ASKED = [
    "operator_id",
    "request_id",
    "subscriber_id",
    "invoice_id",
    "kind",
    "original_id",
    "reason",
    "credit_note_id",
    "counted",
    "seller",
    "buyer_is_person",
    "buyer_name",
    "buyer_tax_id",
    "lines",
    "currency",
    "net",
    "tax",
    "gross",
    "capitals",
    "requested_at",
]
RULES = f"""
CREATE TRIGGER asked_stays BEFORE UPDATE ON billing_fapiaorequest FOR EACH ROW
    WHEN (({", ".join(f"OLD.{name}" for name in _ASKED)}) IS DISTINCT FROM
          ({", ".join(f"NEW.{name}" for name in _ASKED)})
          OR OLD.number IS NOT NULL AND NEW.number IS DISTINCT FROM OLD.number)
    EXECUTE FUNCTION billing_refuse('what was asked never changes: ask for a red one');
CREATE TRIGGER asked_is_kept BEFORE DELETE ON billing_fapiaorequest FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
"""
