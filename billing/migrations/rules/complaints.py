"""What was said of a complaint stays as it was said."""

SEQUENCES = "CREATE SEQUENCE billing_complaint_id"
RULES = [
    """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_complaintmessage FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is append-only: say more by a further row');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_complaint FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted');
CREATE TRIGGER kept BEFORE TRUNCATE ON billing_complaint FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
CREATE TRIGGER kept BEFORE TRUNCATE ON billing_complaintmessage FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
""",
]
