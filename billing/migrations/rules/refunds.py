"""The rules of refunds and disputes that need the row before."""

SEQUENCES = "CREATE SEQUENCE billing_refund_id"

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
DISPUTE_FUNCTION = """
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
"""
_DISPUTES = """
CREATE TRIGGER goes_its_way BEFORE UPDATE ON billing_dispute FOR EACH ROW
    EXECUTE FUNCTION billing_dispute_goes_its_way();
CREATE TRIGGER begins_opened BEFORE INSERT ON billing_dispute FOR EACH ROW
    WHEN (NEW.state <> 'opened' OR NEW.steps <> 1)
    EXECUTE FUNCTION billing_refuse('a dispute begins as opened');
"""
_STEPS = ("billing_refundstep", "billing_disputestep")
_ROWS = ("billing_refund", "billing_dispute")
# What is held may grow: by what comes back to the wallet of what is disputed.
DISPUTES_HOLD_AS_IS = DISPUTE_FUNCTION.replace("CREATE", "CREATE OR REPLACE", 1)
DISPUTES_HOLD_MORE = (
    DISPUTES_HOLD_AS_IS.replace("OLD.amount, OLD.held,", "OLD.amount,")
    .replace("NEW.amount, NEW.held,", "NEW.amount,")
    .replace("OR NEW.fee < OLD.fee OR", "OR NEW.fee < OLD.fee OR NEW.held < OLD.held OR")
)
# An inquiry comes before a dispute: what it is about is known for sure when it becomes one.
DISPUTES_BEGIN_OPENED = """
CREATE OR REPLACE TRIGGER begins_opened BEFORE INSERT ON billing_dispute FOR EACH ROW
    WHEN (NEW.state <> 'opened' OR NEW.steps <> 1)
    EXECUTE FUNCTION billing_refuse('a dispute begins as opened');
"""
DISPUTES_BEGIN_AS_INQUIRIES = """
CREATE OR REPLACE FUNCTION billing_dispute_goes_its_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.number, OLD.order_id, OLD.way,
        OLD.reference, OLD.currency, OLD.opened_at)
       IS DISTINCT FROM
       (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.number, NEW.order_id, NEW.way,
        NEW.reference, NEW.currency, NEW.opened_at)
       OR NEW.amount <> OLD.amount AND (OLD.state, NEW.state) <> ('inquiry', 'opened')
       OR NEW.fee < OLD.fee OR NEW.held < OLD.held
       OR OLD.state IN ('won', 'lost', 'withdrawn') AND NEW.evidence <> OLD.evidence
    THEN
        RAISE EXCEPTION 'dispute %: what is disputed never changes', OLD.number
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.state <> OLD.state AND NOT (CASE OLD.state
            WHEN 'inquiry' THEN NEW.state IN ('opened', 'withdrawn')
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
CREATE OR REPLACE TRIGGER begins_opened BEFORE INSERT ON billing_dispute FOR EACH ROW
    WHEN (NEW.state NOT IN ('inquiry', 'opened') OR NEW.steps <> 1)
    EXECUTE FUNCTION billing_refuse('a dispute begins as inquiry or opened');
"""
RULES = [
    _REFUNDS,
    DISPUTE_FUNCTION,
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
