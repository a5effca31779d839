"""What the phone bill carries, and what the carrier said of it, stays."""

RULES = [
    """
CREATE TRIGGER what_it_carries_stays BEFORE UPDATE ON billing_phonebillcharge FOR EACH ROW
    WHEN (OLD.sequence IS NOT NULL OR
          (OLD.subscriber_id, OLD.order_id, OLD.operator_id, OLD.at, OLD.currency, OLD.amount,
           OLD.msisdn, OLD.external_id)
          IS DISTINCT FROM
          (NEW.subscriber_id, NEW.order_id, NEW.operator_id, NEW.at, NEW.currency, NEW.amount,
           NEW.msisdn, NEW.external_id))
    EXECUTE FUNCTION billing_refuse('what the phone bill carries never changes');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_phonebillcharge FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_phonebillanswer FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is append-only: correct it by a further row');
CREATE TRIGGER kept BEFORE TRUNCATE ON billing_phonebillcharge FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
CREATE TRIGGER kept BEFORE TRUNCATE ON billing_phonebillanswer FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
""",
]
