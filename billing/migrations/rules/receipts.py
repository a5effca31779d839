"""Receipts of plans are numbered, belong to a subscriber, and stay as they are."""

SEQUENCES = "CREATE SEQUENCE billing_planreceipt_id"
RULES = [
    """
ALTER TABLE billing_planreceipt
    ADD CONSTRAINT plan_receipt_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_planreceipt FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is append-only: correct it by a further row');
CREATE TRIGGER kept BEFORE TRUNCATE ON billing_planreceipt FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
""",
]
