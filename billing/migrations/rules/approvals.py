"""What was asked for stays, and is decided once."""

RULES = """
CREATE TRIGGER what_was_decided_stays BEFORE UPDATE ON billing_approval FOR EACH ROW
    WHEN (OLD.state <> 'pending' OR
          (OLD.operator_id, OLD.kind, OLD.subscriber_id, OLD.invoice_id, OLD.whole,
           OLD.over_charge, OLD.bucket_id, OLD.drawn, OLD.billed, OLD.about_id, OLD.units,
           OLD.until, OLD.currency, OLD.gross, OLD.amount, OLD.effect, OLD.reason, OLD.asked_by,
           OLD.asked_at, OLD.order_id, OLD."to", OLD.once)
          IS DISTINCT FROM
          (NEW.operator_id, NEW.kind, NEW.subscriber_id, NEW.invoice_id, NEW.whole,
           NEW.over_charge, NEW.bucket_id, NEW.drawn, NEW.billed, NEW.about_id, NEW.units,
           NEW.until, NEW.currency, NEW.gross, NEW.amount, NEW.effect, NEW.reason, NEW.asked_by,
           NEW.asked_at, NEW.order_id, NEW."to", NEW.once))
    EXECUTE FUNCTION billing_refuse('what was asked for stays, and is decided once');
"""
