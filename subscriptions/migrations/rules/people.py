"""What users, staff and subscribers may see, saw and set."""

# A user's account is a subscriber of the operator that it says: both columns name it.
ACCESS = """
ALTER TABLE subscriptions_access ADD CONSTRAINT access_is_at_the_subscribers_operator
    FOREIGN KEY (subscriber_id, operator_id) REFERENCES subscriptions_subscriber (id, operator_id)
"""
AUDIT = """
CREATE FUNCTION subscriptions_refuse_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what was seen and done stays as it was written'
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON subscriptions_auditentry
    FOR EACH STATEMENT EXECUTE FUNCTION subscriptions_refuse_audit();
CREATE TRIGGER kept BEFORE TRUNCATE ON subscriptions_auditentry
    FOR EACH STATEMENT EXECUTE FUNCTION subscriptions_refuse_audit();
"""
# What was said and done stays as it was written; tests empty the tables as a whole.
STEPS = """
CREATE FUNCTION subscriptions_refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only added to', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE ON subscriptions_keystep
    FOR EACH ROW EXECUTE FUNCTION subscriptions_refuse_rewriting();
CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE ON subscriptions_safetystep
    FOR EACH ROW EXECUTE FUNCTION subscriptions_refuse_rewriting();
"""
RULES = [ACCESS, AUDIT, STEPS]
