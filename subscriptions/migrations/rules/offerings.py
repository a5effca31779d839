"""What is sold stays as it was sold."""

_OFFERINGS = (
    "subscriptions_ratecard",
    "subscriptions_ratecardweight",
    "subscriptions_plan",
    "subscriptions_plancomponent",
    "subscriptions_planwindow",
    "subscriptions_plantier",
    "subscriptions_planretirement",
    "subscriptions_booster",
    "subscriptions_redemption",
)
_COUPONS = """
CREATE TRIGGER immutable BEFORE UPDATE ON subscriptions_coupon FOR EACH ROW
WHEN (to_jsonb(OLD) - 'redeemed' IS DISTINCT FROM to_jsonb(NEW) - 'redeemed'
      OR NEW.redeemed < OLD.redeemed)
EXECUTE FUNCTION subscriptions_refuse_change();
CREATE TRIGGER kept BEFORE DELETE ON subscriptions_coupon
FOR EACH ROW EXECUTE FUNCTION subscriptions_refuse_change();
"""
RULES = (
    """CREATE FUNCTION subscriptions_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is immutable: publish a new version instead', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
"""
    + _COUPONS
    + "".join(
        f"CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION subscriptions_refuse_change();\n"
        for table in _OFFERINGS
    )
)
