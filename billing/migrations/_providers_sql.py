"""What providers told and took stays as it was; what becomes of it goes one way."""

_KEPT = (
    "billing_provideraccount",
    "billing_providersecret",
    "billing_providerevent",
    "billing_providerpayment",
    "billing_paymenttask",
)

_INTENTS_BEFORE = """
DROP TRIGGER what_was_tried_stays ON billing_paymentintent;
CREATE TRIGGER what_was_tried_stays BEFORE UPDATE ON billing_paymentintent FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL OR
          (OLD.way, OLD.key, OLD.currency, OLD.amount, OLD.created_at)
          IS DISTINCT FROM (NEW.way, NEW.key, NEW.currency, NEW.amount, NEW.created_at))
    EXECUTE FUNCTION billing_refuse('an attempt that has ended never changes');
"""
# After its end only this: the provider has heard of it.
INTENTS = """
DROP TRIGGER what_was_tried_stays ON billing_paymentintent;
CREATE TRIGGER what_was_tried_stays BEFORE UPDATE ON billing_paymentintent FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL AND
          (OLD.state, OLD.reference, OLD.action, OLD.reason, OLD.ended_at)
          IS DISTINCT FROM (NEW.state, NEW.reference, NEW.action, NEW.reason, NEW.ended_at)
          OR OLD.ended_at IS NOT NULL AND OLD.recall_at IS NULL AND NEW.recall_at IS NOT NULL
          OR (OLD.way, OLD.account_id, OLD.method, OLD.return_url, OLD.key, OLD.currency,
              OLD.amount, OLD.created_at)
          IS DISTINCT FROM
          (NEW.way, NEW.account_id, NEW.method, NEW.return_url, NEW.key, NEW.currency,
           NEW.amount, NEW.created_at))
    EXECUTE FUNCTION billing_refuse('an attempt that has ended never changes');
"""
_RULES = """
CREATE TRIGGER what_was_told_stays BEFORE UPDATE ON billing_providerevent FOR EACH ROW
    WHEN (OLD.state IN ('done', 'ignored') OR
          (OLD.account_id, OLD.operator_id, OLD.event_id, OLD.kind, OLD.body, OLD.received_at)
          IS DISTINCT FROM
          (NEW.account_id, NEW.operator_id, NEW.event_id, NEW.kind, NEW.body, NEW.received_at))
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
_UNRULED = """
DROP TRIGGER what_it_is_stays ON billing_provideraccount;
DROP TRIGGER what_was_resolved_stays ON billing_paymenttask;
DROP TRIGGER what_was_paid_stays ON billing_providerpayment;
DROP TRIGGER what_was_told_stays ON billing_providerevent;
"""
KEEP_PROVIDERS = [
    INTENTS,
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
LOOSEN_PROVIDERS = [
    *(f"DROP TRIGGER kept ON {table}" for table in _KEPT),
    *(f"DROP TRIGGER kept_for_good ON {table}" for table in _KEPT),
    _UNRULED,
    _INTENTS_BEFORE,
]
