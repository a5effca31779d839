"""What providers told and took stays as it was, but for the bytes of a notice: these are emptied, once,
under the digest that says which they were."""

_KEPT = (
    "billing_provideraccount",
    "billing_providersecret",
    "billing_providerevent",
    "billing_providerpayment",
    "billing_paymenttask",
)

_RULES = """
CREATE TRIGGER what_was_told_stays BEFORE UPDATE ON billing_providerevent FOR EACH ROW
    WHEN ((OLD.account_id, OLD.operator_id, OLD.event_id, OLD.kind, OLD.received_at)
          IS DISTINCT FROM
          (NEW.account_id, NEW.operator_id, NEW.event_id, NEW.kind, NEW.received_at)
          OR OLD.state IN ('done', 'ignored') AND
          (OLD.state, OLD.reason, OLD.attempts, OLD.next_try_at, OLD.ended_at)
          IS DISTINCT FROM
          (NEW.state, NEW.reason, NEW.attempts, NEW.next_try_at, NEW.ended_at)
          OR (OLD.body, OLD.digest) IS DISTINCT FROM (NEW.body, NEW.digest) AND NOT
          (OLD.next_try_at IS NULL AND OLD.digest = '' AND NEW.body = ''
           AND NEW.digest = encode(sha256(OLD.body), 'hex')))
    EXECUTE FUNCTION billing_refuse('what was told, and was done, never changes');
CREATE TRIGGER what_was_paid_stays BEFORE UPDATE ON billing_providerpayment FOR EACH ROW
    WHEN (OLD.became <> 'unclear' OR NEW.became = 'granted' OR
          (OLD.account_id, OLD.operator_id, OLD.reference, OLD.way, OLD.key, OLD.currency,
           OLD.amount, OLD.at, OLD.order_id)
          IS DISTINCT FROM
          (NEW.account_id, NEW.operator_id, NEW.reference, NEW.way, NEW.key, NEW.currency,
           NEW.amount, NEW.at, NEW.order_id))
    EXECUTE FUNCTION billing_refuse('what was paid, and what it became, never changes');
CREATE TRIGGER what_was_resolved_stays BEFORE UPDATE ON billing_paymenttask FOR EACH ROW
    WHEN (OLD.state = 'resolved' OR
          (OLD.operator_id, OLD.payment_id, OLD.event_id, OLD.cause, OLD.created_at)
          IS DISTINCT FROM
          (NEW.operator_id, NEW.payment_id, NEW.event_id, NEW.cause, NEW.created_at))
    EXECUTE FUNCTION billing_refuse('what was resolved never changes');
CREATE TRIGGER what_it_is_stays BEFORE UPDATE ON billing_provideraccount FOR EACH ROW
    WHEN ((OLD.operator_id, OLD.provider, OLD.public_id, OLD.name, OLD.live, OLD.created_at)
          IS DISTINCT FROM
          (NEW.operator_id, NEW.provider, NEW.public_id, NEW.name, NEW.live, NEW.created_at))
    EXECUTE FUNCTION billing_refuse('an account ends, and another begins');
"""
RULES = [
    _RULES,
    *(
        f"CREATE TRIGGER kept_for_good BEFORE DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is never deleted')"
        for table in _KEPT
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
