"""The rules of anomaly cases that need the row before."""

RULES = [
    """
CREATE FUNCTION billing_case_goes_its_way() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.operator_id, OLD.subscriber_id, OLD.kind, OLD.key, OLD.found_at)
       IS DISTINCT FROM (NEW.operator_id, NEW.subscriber_id, NEW.kind, NEW.key, NEW.found_at)
       OR NEW.steps <> OLD.steps + (NEW.state <> OLD.state)::int
       OR NEW.state <> OLD.state AND NOT (CASE OLD.state
            WHEN 'open' THEN NEW.state IN ('frozen', 'confirmed', 'dismissed')
            WHEN 'frozen' THEN NEW.state IN ('released', 'confirmed')
            WHEN 'released' THEN NEW.state IN ('confirmed', 'dismissed')
            ELSE false END)
    THEN
        RAISE EXCEPTION 'case %: % does not become %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER goes_its_way BEFORE UPDATE ON billing_anomalycase FOR EACH ROW
    EXECUTE FUNCTION billing_case_goes_its_way();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_anomalystep FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is append-only');
""",
]
