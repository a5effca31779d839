"""The locks of subscribers who may draw of other buckets on the days around."""

# The form with one key is theirs alone: every other advisory lock has two (subscriptions/advisory.py).
# In the order of the array. Alone, who would hold too many holds all of the operator's.
HOLD = """
CREATE FUNCTION metering_hold(operator bigint, subscribers bigint[], alone boolean)
RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF alone THEN
        PERFORM pg_advisory_xact_lock(7009, (operator & 2147483647)::int);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(7009, (operator & 2147483647)::int);
        PERFORM pg_advisory_xact_lock(s.id) FROM unnest(subscribers) AS s (id);
    END IF;
END $$;
"""
