"""The rules of providers' files and differences that need the row before."""

_KEPT = ("billing_providerfile", "billing_providerline", "billing_paymentdifference")
RULES = [
    """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_providerfile FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is append-only: import another file');
CREATE TRIGGER what_the_provider_said_stays BEFORE UPDATE ON billing_providerline FOR EACH ROW
    WHEN (OLD.state = 'matched' OR
          (OLD.operator_id, OLD.account, OLD.line_id, OLD.file_id, OLD.nr, OLD.at, OLD.day,
           OLD.kind, OLD.currency, OLD.gross, OLD.fee, OLD.key, OLD.reference, OLD.payout, OLD.raw)
          IS DISTINCT FROM
          (NEW.operator_id, NEW.account, NEW.line_id, NEW.file_id, NEW.nr, NEW.at, NEW.day,
           NEW.kind, NEW.currency, NEW.gross, NEW.fee, NEW.key, NEW.reference, NEW.payout, NEW.raw))
    EXECUTE FUNCTION billing_refuse('a line stays as it came, and what it matched');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_providerline FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted');
CREATE TRIGGER what_differed_stays BEFORE UPDATE ON billing_paymentdifference FOR EACH ROW
    WHEN (OLD.state = 'resolved' OR
          (OLD.operator_id, OLD.account, OLD.day, OLD.kind, OLD.about, OLD.line_id, OLD.ours,
           OLD.currency, OLD.theirs, OLD.our_amount, OLD.amount, OLD.found_at)
          IS DISTINCT FROM
          (NEW.operator_id, NEW.account, NEW.day, NEW.kind, NEW.about, NEW.line_id, NEW.ours,
           NEW.currency, NEW.theirs, NEW.our_amount, NEW.amount, NEW.found_at))
    EXECUTE FUNCTION billing_refuse('what differed, and what became of it, never change');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_paymentdifference FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted: resolve it');
""",
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
