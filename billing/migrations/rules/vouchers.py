"""The rules of vouchers that need the row before."""

_KEPT = ("billing_voucherbatch", "billing_voucher", "billing_voucherstep")

_RULES = """
CREATE FUNCTION billing_voucher_goes_its_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.batch_id, OLD.nr, OLD.operator_id, OLD.digest)
       IS DISTINCT FROM (NEW.batch_id, NEW.nr, NEW.operator_id, NEW.digest)
       OR NOT (CASE OLD.state
            WHEN 'made' THEN NEW.state IN ('activated', 'void', 'expired')
            WHEN 'activated' THEN NEW.state IN ('redeemed', 'void', 'expired')
            ELSE false END)
    THEN
        RAISE EXCEPTION 'voucher % of batch %: % does not become %', OLD.nr, OLD.batch_id,
            OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER goes_its_way BEFORE UPDATE ON billing_voucher FOR EACH ROW
    EXECUTE FUNCTION billing_voucher_goes_its_way();
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_voucher FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted: make it void');
CREATE TRIGGER terms_stay BEFORE UPDATE ON billing_voucherbatch FOR EACH ROW
    WHEN (to_jsonb(OLD) - '{made,steps,shown_at,expired_at}'::text[]
          IS DISTINCT FROM to_jsonb(NEW) - '{made,steps,shown_at,expired_at}'::text[]
          OR NEW.made < OLD.made OR NEW.steps < OLD.steps
          OR OLD.shown_at IS NOT NULL AND OLD.shown_at IS DISTINCT FROM NEW.shown_at)
    EXECUTE FUNCTION billing_refuse('what a batch says never changes; its codes are shown once');
CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_voucherbatch FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is never deleted');
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_voucherstep FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is append-only');
"""
RULES = [
    _RULES,
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
