"""What models cost: prices that stay, each day's usage priced, and statements for good."""

_FOREVER = (
    "billing_costcard",
    "billing_costprice",
    "billing_settlement",
    "billing_settlementline",
)
_KEPT = ("billing_costentry", "billing_settlement", "billing_settlementline")
RULES = [
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('never changes: write a further one')"
        for table in _FOREVER
    ),
    """
CREATE TRIGGER append_only BEFORE DELETE ON billing_costentry FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('never changes: write a further one');
CREATE TRIGGER settled_once BEFORE UPDATE ON billing_costentry FOR EACH ROW
    WHEN (OLD.settlement_id IS NOT NULL OR
          (OLD.id, OLD.operator_id, OLD.day, OLD.plan, OLD.gateway_id, OLD.model, OLD.price_id,
           OLD.supplier_id, OLD.requests, OLD.uncached_input_tokens, OLD.cached_input_tokens,
           OLD.cache_write_tokens, OLD.output_tokens, OLD.reasoning_tokens, OLD.units, OLD.cost)
          IS DISTINCT FROM
          (NEW.id, NEW.operator_id, NEW.day, NEW.plan, NEW.gateway_id, NEW.model, NEW.price_id,
           NEW.supplier_id, NEW.requests, NEW.uncached_input_tokens, NEW.cached_input_tokens,
           NEW.cache_write_tokens, NEW.output_tokens, NEW.reasoning_tokens, NEW.units, NEW.cost))
    EXECUTE FUNCTION billing_refuse('never changes, but for its settlement, once');
""",
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
