"""The rules of refunds and disputes that need the row before."""

CREATE_SEQUENCE = "CREATE SEQUENCE billing_refund_id"
DROP_SEQUENCE = "DROP SEQUENCE billing_refund_id"

# As in _orders_sql, but that what is refunded may be less again while a refund is open, and that a
# refund that was made may turn out to have failed.
_ORDERS = """
CREATE OR REPLACE FUNCTION billing_order_goes_its_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.number, OLD.kind, OLD.key, OLD.currency,
        OLD.amount, OLD.created_at, OLD.expires_at, OLD.plan_id, OLD.booster_id)
       IS DISTINCT FROM
       (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.number, NEW.kind, NEW.key, NEW.currency,
        NEW.amount, NEW.created_at, NEW.expires_at, NEW.plan_id, NEW.booster_id)
       OR NEW.applied < OLD.applied OR NEW.unapplied < OLD.unapplied
       OR NEW.refunded < OLD.refunded AND OLD.state <> 'refunding'
       OR (OLD.paid_at IS NOT NULL AND (OLD.paid_at, OLD.way) IS DISTINCT FROM (NEW.paid_at, NEW.way))
       OR (OLD.settled_at IS NOT NULL AND OLD.settled_at IS DISTINCT FROM NEW.settled_at)
    THEN
        RAISE EXCEPTION 'order %: what was ordered and paid never changes', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state <> OLD.state AND NOT (CASE OLD.state
            WHEN 'created' THEN NEW.state IN ('waiting', 'paid', 'failed', 'expired', 'cancelled')
            WHEN 'waiting' THEN NEW.state IN ('paid', 'failed', 'expired', 'cancelled')
            WHEN 'failed' THEN NEW.state IN ('waiting', 'paid', 'expired', 'cancelled')
            WHEN 'paid' THEN NEW.state IN ('refunding', 'refunded', 'partly_refunded')
            WHEN 'refunding' THEN NEW.state IN ('paid', 'refunded', 'partly_refunded')
            WHEN 'partly_refunded' THEN NEW.state IN ('refunding', 'refunded')
            WHEN 'refunded' THEN NEW.state = 'refunding'
            ELSE false END)
    THEN
        RAISE EXCEPTION 'order %: % does not become %', OLD.number, OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.steps <> OLD.steps + (NEW.state <> OLD.state)::int THEN
        RAISE EXCEPTION 'order %: each state is a step', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""
_REFUNDS = """
CREATE FUNCTION billing_refund_goes_its_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.number, OLD.order_id, OLD.once,
        OLD.currency, OLD.amount, OLD.fund, OLD.rule, OLD.bucket_id, OLD.units, OLD.reason,
        OLD.asked_by, OLD.asked_at)
       IS DISTINCT FROM
       (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.number, NEW.order_id, NEW.once,
        NEW.currency, NEW.amount, NEW.fund, NEW.rule, NEW.bucket_id, NEW.units, NEW.reason,
        NEW.asked_by, NEW.asked_at)
       OR (OLD.note_id IS NOT NULL AND NEW.note_id IS DISTINCT FROM OLD.note_id)
       OR ((OLD."to", OLD.way) IS DISTINCT FROM (NEW."to", NEW.way)
           AND (NEW.state <> 'succeeded' OR OLD.state = 'succeeded' OR NEW."to" <> 'wallet'))
       OR (OLD.key <> NEW.key AND NEW.tries <> OLD.tries + 1) OR NEW.tries < OLD.tries
    THEN
        RAISE EXCEPTION 'refund %: what was asked for never changes', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state <> OLD.state AND NOT (CASE OLD.state
            WHEN 'pending' THEN NEW.state IN ('succeeded', 'failed')
            WHEN 'failed' THEN NEW.state IN ('pending', 'succeeded', 'cancelled')
            WHEN 'succeeded' THEN NEW.state = 'failed' AND OLD."to" = 'source'
            ELSE false END)
    THEN
        RAISE EXCEPTION 'refund %: % does not become %', OLD.number, OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.steps <> OLD.steps + (NEW.state <> OLD.state)::int THEN
        RAISE EXCEPTION 'refund %: each state is a step', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER goes_its_way BEFORE UPDATE ON billing_refund FOR EACH ROW
    EXECUTE FUNCTION billing_refund_goes_its_way();
CREATE TRIGGER begins_pending BEFORE INSERT ON billing_refund FOR EACH ROW
    WHEN (NEW.state <> 'pending' OR NEW.steps <> 1)
    EXECUTE FUNCTION billing_refuse('a refund begins as pending');
"""
_DISPUTES = """
CREATE FUNCTION billing_dispute_goes_its_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.number, OLD.order_id, OLD.way,
        OLD.reference, OLD.currency, OLD.amount, OLD.held, OLD.opened_at)
       IS DISTINCT FROM
       (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.number, NEW.order_id, NEW.way,
        NEW.reference, NEW.currency, NEW.amount, NEW.held, NEW.opened_at)
       OR NEW.fee < OLD.fee OR OLD.state IN ('won', 'lost') AND NEW.evidence <> OLD.evidence
    THEN
        RAISE EXCEPTION 'dispute %: what is disputed never changes', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state <> OLD.state AND NOT (CASE OLD.state
            WHEN 'opened' THEN NEW.state IN ('under_review', 'won', 'lost')
            WHEN 'under_review' THEN NEW.state IN ('won', 'lost')
            ELSE false END)
    THEN
        RAISE EXCEPTION 'dispute %: % does not become %', OLD.number, OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.steps <> OLD.steps + (NEW.state <> OLD.state)::int THEN
        RAISE EXCEPTION 'dispute %: each state is a step', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER goes_its_way BEFORE UPDATE ON billing_dispute FOR EACH ROW
    EXECUTE FUNCTION billing_dispute_goes_its_way();
CREATE TRIGGER begins_opened BEFORE INSERT ON billing_dispute FOR EACH ROW
    WHEN (NEW.state <> 'opened' OR NEW.steps <> 1)
    EXECUTE FUNCTION billing_refuse('a dispute begins as opened');
"""
_STEPS = ("billing_refundstep", "billing_disputestep")
_ROWS = ("billing_refund", "billing_dispute")
KEEP_REFUNDS = [
    _ORDERS,
    _REFUNDS,
    _DISPUTES,
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is append-only: correct it by a further row')"
        for table in _STEPS
    ),
    *(
        f"CREATE TRIGGER kept_for_good BEFORE DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is never deleted')"
        for table in _ROWS
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in (*_STEPS, *_ROWS)
    ),
]
LOOSEN_REFUNDS = [
    *(f"DROP TRIGGER kept ON {table}" for table in (*_STEPS, *_ROWS)),
    *(f"DROP TRIGGER kept_for_good ON {table}" for table in _ROWS),
    *(f"DROP TRIGGER append_only ON {table}" for table in _STEPS),
    """
DROP TRIGGER begins_opened ON billing_dispute;
DROP TRIGGER goes_its_way ON billing_dispute;
DROP FUNCTION billing_dispute_goes_its_way();
DROP TRIGGER begins_pending ON billing_refund;
DROP TRIGGER goes_its_way ON billing_refund;
DROP FUNCTION billing_refund_goes_its_way();
""",
]
