"""What Django's operations cannot say: sequences, and rules that need more than one row.

The rules are statement triggers over all rows of a statement at once, so that a chunk of a close
pays for each once. They plan anew each time: a plan made for one row would join thousands badly.
"""

SEQUENCES = """
CREATE SEQUENCE billing_posting_id;
CREATE SEQUENCE billing_invoice_id;
"""

_FOREVER = ("billing_account", "billing_posting", "billing_entry", "billing_invoicenumber")
# Emptied by nobody; tests, which empty every table after themselves, switch `kept` off.
_KEPT = (*_FOREVER, "billing_invoice", "billing_invoiceline")

_REFUSE = """
CREATE FUNCTION billing_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: %', TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END $$;
"""
_LEDGER = """
CREATE FUNCTION billing_entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
BEGIN
    EXECUTE '
        SELECT e.posting_id
        FROM added e
        LEFT JOIN billing_posting p ON p.id = e.posting_id
        LEFT JOIN billing_account a ON a.id = e.account_id AND a.operator_id = p.operator_id
             AND a.currency = p.currency
        GROUP BY e.posting_id, p.entries
        HAVING sum(e.amount) <> 0 OR count(*) IS DISTINCT FROM p.entries::bigint
            OR count(a.id) <> count(*)
        LIMIT 1' INTO wrong;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the entries of posting % do not add up to zero, are not all there, or'
            ' stand on accounts of another operator or currency', wrong
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER balance AFTER INSERT ON billing_entry REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION billing_entries_balance();
"""
_INVOICES = """
ALTER TABLE billing_invoice
    ADD CONSTRAINT invoice_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
-- A draft becomes an issued invoice in place, without touching an index.
ALTER TABLE billing_invoice SET (fillfactor = 60);
CREATE TRIGGER begins_as_a_draft BEFORE INSERT ON billing_invoice FOR EACH ROW
    WHEN (NEW.number IS NOT NULL)
    EXECUTE FUNCTION billing_refuse('an invoice begins as a draft, without a number');
CREATE TRIGGER issued_stays BEFORE UPDATE ON billing_invoice FOR EACH ROW
    WHEN (OLD.number IS NOT NULL AND
          (OLD.subscriber_id, OLD.id, OLD.operator_id, OLD.kind, OLD.subscription_id, OLD.plan_id,
           OLD.period_start, OLD.period_end, OLD.original_id, OLD.number, OLD.issued_at,
           OLD.due_at, OLD.currency, OLD.net, OLD.tax, OLD.gross)
          IS DISTINCT FROM
          (NEW.subscriber_id, NEW.id, NEW.operator_id, NEW.kind, NEW.subscription_id, NEW.plan_id,
           NEW.period_start, NEW.period_end, NEW.original_id, NEW.number, NEW.issued_at,
           NEW.due_at, NEW.currency, NEW.net, NEW.tax, NEW.gross))
    EXECUTE FUNCTION billing_refuse('an issued invoice never changes: write a credit note');
CREATE TRIGGER issued_is_kept BEFORE DELETE ON billing_invoice FOR EACH ROW
    WHEN (OLD.number IS NOT NULL)
    EXECUTE FUNCTION billing_refuse('an issued invoice is never deleted: make it void');

CREATE FUNCTION billing_totals_are_sums() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    EXECUTE '
        SELECT i.number
        FROM changed i
        LEFT JOIN LATERAL (
            SELECT sum(l.net) AS net, sum(l.tax) AS tax FROM billing_invoiceline l
            WHERE l.subscriber_id = i.subscriber_id AND l.invoice_id = i.id
        ) s ON true
        WHERE i.number IS NOT NULL
          AND (i.net, i.tax) IS DISTINCT FROM (coalesce(s.net, 0), coalesce(s.tax, 0))
        LIMIT 1' INTO wrong;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the totals of invoice % are not the sums of its lines', wrong
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER totals_are_sums AFTER UPDATE ON billing_invoice REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION billing_totals_are_sums();

CREATE FUNCTION billing_lines_of_drafts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
BEGIN
    EXECUTE '
        SELECT l.invoice_id
        FROM lines l
        LEFT JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
        WHERE i.id IS NULL OR i.number IS NOT NULL
        LIMIT 1' INTO wrong;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'invoice % is no draft: its lines never change', wrong
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER of_drafts_in AFTER INSERT ON billing_invoiceline REFERENCING NEW TABLE AS lines
    FOR EACH STATEMENT EXECUTE FUNCTION billing_lines_of_drafts();
CREATE TRIGGER of_drafts_out AFTER DELETE ON billing_invoiceline REFERENCING OLD TABLE AS lines
    FOR EACH STATEMENT EXECUTE FUNCTION billing_lines_of_drafts();
CREATE TRIGGER no_update BEFORE UPDATE ON billing_invoiceline FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('a line never changes: a draft gets others in its place');
"""
RULES = [
    _REFUSE,
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
    _LEDGER,
    _INVOICES,
]
