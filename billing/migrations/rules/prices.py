"""What was asked for of a price stays: another is another draft."""

RULES = """
CREATE TRIGGER what_was_asked_for_stays BEFORE UPDATE ON billing_pricedraft
FOR EACH ROW
WHEN (OLD.state IN ('retired', 'dropped')
      OR OLD.state <> 'draft' AND OLD.terms IS DISTINCT FROM NEW.terms
      OR OLD.plan_id IS NOT NULL AND OLD.plan_id IS DISTINCT FROM NEW.plan_id
      OR OLD.card_id IS NOT NULL AND OLD.card_id IS DISTINCT FROM NEW.card_id
      OR (OLD.operator_id, OLD.kind, OLD.code, OLD.made_by, OLD.made_at)
         IS DISTINCT FROM
         (NEW.operator_id, NEW.kind, NEW.code, NEW.made_by, NEW.made_at))
EXECUTE FUNCTION billing_refuse('what was asked for stays: draft another version');
"""
