"""The rules of bonuses, holds, top-up policies and automatic top-ups that need the row before."""

_FOREVER = ("billing_walletbonusentry", "billing_topuppolicy", "billing_bonusrule")
_KEPT = (
    *_FOREVER,
    "billing_walletbonus",
    "billing_wallethold",
    "billing_autotopup",
    "billing_autotopuprun",
)
SEQUENCES = """
CREATE SEQUENCE billing_wallethold_id;
CREATE SEQUENCE billing_autotopup_id;
"""
_RULES = """
CREATE TRIGGER what_was_given_stays BEFORE UPDATE ON billing_walletbonus FOR EACH ROW
    WHEN ((OLD.subscriber_id, OLD.currency, OLD.nr, OLD.operator_id, OLD.granted, OLD.spent,
           OLD.granted_at, OLD.expires_at, OLD.order_id, OLD.policy_nr)
          IS DISTINCT FROM
          (NEW.subscriber_id, NEW.currency, NEW.nr, NEW.operator_id, NEW.granted, NEW.spent,
           NEW.granted_at, NEW.expires_at, NEW.order_id, NEW.policy_nr))
    EXECUTE FUNCTION billing_refuse('what was given, and until when, never changes');
CREATE TRIGGER what_was_held_stays BEFORE UPDATE ON billing_wallethold FOR EACH ROW
    WHEN (OLD.state <> 'held' OR
          (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.currency, OLD.amount, OLD.purpose,
           OLD.key, OLD.placed_at, OLD.expires_at)
          IS DISTINCT FROM
          (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.currency, NEW.amount, NEW.purpose,
           NEW.key, NEW.placed_at, NEW.expires_at))
    EXECUTE FUNCTION billing_refuse('a hold only ends, once');
ALTER TABLE billing_wallethold
    ADD CONSTRAINT wallet_hold_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
CREATE TRIGGER what_was_agreed_stays BEFORE UPDATE ON billing_autotopup FOR EACH ROW
    WHEN ((OLD.ended_at IS NOT NULL AND
           (OLD.ended_at, OLD.ended_by) IS DISTINCT FROM (NEW.ended_at, NEW.ended_by)) OR
          (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.currency, OLD.threshold, OLD.amount,
           OLD.daily_limit, OLD.monthly_limit, OLD.way, OLD.method, OLD.text, OLD.text_version,
           OLD.language, OLD.channel, OLD.agreed_at)
          IS DISTINCT FROM
          (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.currency, NEW.threshold, NEW.amount,
           NEW.daily_limit, NEW.monthly_limit, NEW.way, NEW.method, NEW.text, NEW.text_version,
           NEW.language, NEW.channel, NEW.agreed_at))
    EXECUTE FUNCTION billing_refuse('what was agreed to never changes: agree anew');
ALTER TABLE billing_autotopup
    ADD CONSTRAINT auto_top_up_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
CREATE TRIGGER what_was_done_stays BEFORE UPDATE ON billing_autotopuprun FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL OR
          (OLD.operator_id, OLD.amount, OLD.begun_at)
          IS DISTINCT FROM (NEW.operator_id, NEW.amount, NEW.begun_at) OR
          (OLD.order_id IS NOT NULL AND OLD.order_id IS DISTINCT FROM NEW.order_id))
    EXECUTE FUNCTION billing_refuse('a run that is over, and its order, never change');
"""
_CHANGING = ("walletbonus", "wallethold", "autotopup", "autotopuprun")
RULES = [
    _RULES,
    *(
        f"CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_{table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is never deleted')"
        for table in _CHANGING
    ),
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is append-only: correct it by a further row')"
        for table in _FOREVER
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
