"""What was agreed to and tried stays; a case goes one way."""

_KEPT = ("billing_consent", "billing_collectionpolicy", "billing_collectionstep")

SEQUENCES = "CREATE SEQUENCE billing_consent_id"
RULES = [
    """
ALTER TABLE billing_consent
    ADD CONSTRAINT consent_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
CREATE TRIGGER what_was_said_stays BEFORE UPDATE ON billing_consent FOR EACH ROW
    WHEN (OLD.withdrawn_at IS NOT NULL OR
          (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.number, OLD.kind, OLD.subscription_id,
           OLD.text, OLD.text_version, OLD.language, OLD.channel, OLD.monthly_cap, OLD.given_at)
          IS DISTINCT FROM
          (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.number, NEW.kind, NEW.subscription_id,
           NEW.text, NEW.text_version, NEW.language, NEW.channel, NEW.monthly_cap, NEW.given_at))
    EXECUTE FUNCTION billing_refuse('what was agreed to never changes: withdraw it once');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_consent FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted: withdraw it');
CREATE TRIGGER over_is_over BEFORE UPDATE ON billing_collectioncase FOR EACH ROW
    WHEN (OLD.state <> 'running' OR
          (OLD.operator_id, OLD.begun_at, OLD.first_at, OLD.due_at)
          IS DISTINCT FROM (NEW.operator_id, NEW.begun_at, NEW.first_at, NEW.due_at)
          OR NEW.steps < OLD.steps)
    EXECUTE FUNCTION billing_refuse('a case that is over stays so');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_collectioncase FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted');
""",
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is append-only: correct it by a further row')"
        for table in _KEPT[1:]
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
