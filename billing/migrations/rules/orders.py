"""The rules of orders, wallets and transfers that need more than one row, or the row before."""

SEQUENCES = "CREATE SEQUENCE billing_order_id"

_STEPS = ("billing_orderstep", "billing_walletmovement")
_KEPT = (
    *_STEPS,
    "billing_order",
    "billing_paymentintent",
    "billing_wallet",
    "billing_banktransfer",
)

# What is refunded may be less again while a refund is open, and a refund that was made may turn out
# to have failed. After its end an attempt may get its name at the provider, and be recalled.
_ORDERS = """
CREATE FUNCTION billing_order_goes_its_way() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER goes_its_way BEFORE UPDATE ON billing_order FOR EACH ROW
    EXECUTE FUNCTION billing_order_goes_its_way();
CREATE TRIGGER begins_created BEFORE INSERT ON billing_order FOR EACH ROW
    WHEN (NEW.state <> 'created' OR NEW.steps <> 1)
    EXECUTE FUNCTION billing_refuse('an order begins as created');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_order FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted: cancel it');
ALTER TABLE billing_order
    ADD CONSTRAINT order_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
CREATE TRIGGER what_was_tried_stays BEFORE UPDATE ON billing_paymentintent FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL AND
          ((OLD.state, OLD.action, OLD.reason, OLD.ended_at)
           IS DISTINCT FROM (NEW.state, NEW.action, NEW.reason, NEW.ended_at)
           OR OLD.reference NOT IN ('', NEW.reference))
          OR (OLD.way, OLD.account_id, OLD.method, OLD.return_url, OLD.key, OLD.currency,
              OLD.amount, OLD.created_at)
          IS DISTINCT FROM
          (NEW.way, NEW.account_id, NEW.method, NEW.return_url, NEW.key, NEW.currency,
           NEW.amount, NEW.created_at))
    EXECUTE FUNCTION billing_refuse('an attempt that has ended never changes');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_paymentintent FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted');
"""
# A movement is written after its wallet, so the row and the statement say the same.
_WALLETS = """
CREATE FUNCTION billing_wallet_moves() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_wallet w
        LEFT JOIN billing_walletmovement before
          ON before.subscriber_id = NEW.subscriber_id AND before.currency = NEW.currency
         AND before.nr = NEW.nr - 1
        WHERE w.subscriber_id = NEW.subscriber_id AND w.currency = NEW.currency
          AND w.operator_id = NEW.operator_id AND (w.movements, w.balance) = (NEW.nr, NEW.balance)
          AND coalesce(before.balance, 0) + NEW.amount = NEW.balance)
    THEN
        RAISE EXCEPTION 'movement % of wallet % does not lead to its balance', NEW.nr,
            NEW.subscriber_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER moves AFTER INSERT ON billing_walletmovement FOR EACH ROW
    EXECUTE FUNCTION billing_wallet_moves();
"""
_TRANSFERS = """
CREATE TRIGGER what_the_bank_said_stays BEFORE UPDATE ON billing_banktransfer FOR EACH ROW
    WHEN (OLD.state = 'matched' OR
          (OLD.operator_id, OLD.reference, OLD.currency, OLD.amount, OLD.payer, OLD.remark,
           OLD.received_at)
          IS DISTINCT FROM
          (NEW.operator_id, NEW.reference, NEW.currency, NEW.amount, NEW.payer, NEW.remark,
           NEW.received_at))
    EXECUTE FUNCTION billing_refuse('what was received, and what it paid, never changes');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_banktransfer FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted');
"""
RULES = [
    _ORDERS,
    _WALLETS,
    _TRANSFERS,
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is append-only: correct it by a further row')"
        for table in _STEPS
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
