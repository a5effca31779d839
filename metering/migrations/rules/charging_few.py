"""A few records and all that their charge asks, in one message that is a transaction by itself.

The records come as one array of rows, which is quicker to make and to read than an array for each
column. An id that is found on a day near its own ends the charge in the server.
"""

LINE = """
CREATE TYPE metering_line AS (
    subscriber_id bigint, occurred_at timestamptz, subject_id bigint, weight_id bigint,
    units bigint, uncached_input_tokens int, cached_input_tokens int, cache_write_tokens int,
    output_tokens int, reasoning_tokens int, record_id text, model text, source text, outcome text,
    attributes jsonb
)
"""
# What a charge of few begins with. The operator's lock comes first, as in every charge.
STORE = """
CREATE FUNCTION metering_store_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint, batch bigint,
    lines metering_line[]
) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM subscriptions_check_terms(operator, api_key, clock, grace, zone, card, card_stamp);
    INSERT INTO metering_usagerecord
        (subscriber_id, gateway_id, occurred_at, batch_id, subject_id, weight_id, units,
         uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
         reasoning_tokens, record_id, model, source, outcome, attributes)
    SELECT l.subscriber_id, gateway, l.occurred_at, batch, l.subject_id, l.weight_id, l.units,
           l.uncached_input_tokens, l.cached_input_tokens, l.cache_write_tokens, l.output_tokens,
           l.reasoning_tokens, l.record_id, l.model, l.source, l.outcome, l.attributes
    FROM unnest(lines) AS l;
    INSERT INTO metering_usagebatch
        (id, operator_id, gateway_id, charged_at, stored_at, records, units, occurred_from,
         occurred_to)
    SELECT batch, operator, gateway, moment, clock_timestamp(), count(*), sum(l.units),
           min(l.occurred_at), max(l.occurred_at)
    FROM unnest(lines) AS l;
    -- Whoever looks at the days around behind this has its plans made once: of a day that is empty
    -- yet, too, they are to read its key.
    PERFORM set_config('enable_seqscan', 'off', true);
END $$;
"""
# Only for usage of which every bucket is known; whoever calls looks afterwards at the days around,
# before the commit. The operator's lock comes first, as in every charge, and what was remembered of
# its terms is compared under it. SQLSTATE TB001: they have changed, or the key was revoked; TB002,
# from the draw: a bucket was emptied or overtaken.
CHARGE = """
CREATE FUNCTION metering_charge_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint, batch bigint,
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    lines metering_line[], held bigint[] DEFAULT NULL
) RETURNS bigint[] LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM metering_store_few(
        operator, api_key, gateway, moment, clock, grace, zone, card, card_stamp, batch, lines);
    RETURN subscriptions_draw(
        subscribers, buckets, units, generations, batch, moment, '{}', operator, held);
END $$;
"""
# Locks in the order that all keep: records, subscribers, reservations, buckets.
COMMIT = """
CREATE FUNCTION metering_commit_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint, batch bigint,
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    lines metering_line[], commits subscriptions_commit[], held bigint[] DEFAULT NULL,
    OUT low bigint[], OUT freed bigint[]
) LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM metering_store_few(
        operator, api_key, gateway, moment, clock, grace, zone, card, card_stamp, batch, lines);
    IF held IS NOT NULL THEN
        PERFORM subscriptions_hold(operator, held);
    END IF;
    freed := subscriptions_settle_few(gateway, moment, commits);
    low := subscriptions_draw(subscribers, buckets, units, generations, batch, moment);
END $$;
"""
# The error of a unique key: there can be none over days, and this is what stands in for it.
# Volatile, so that the planner never calls it.
SEEN = """
CREATE FUNCTION metering_seen_before() RETURNS void LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RAISE EXCEPTION 'the id is stored near its day' USING ERRCODE = 'unique_violation';
END $$
"""
FEW = [STORE, CHARGE, COMMIT]
FUNCTIONS = [LINE, *FEW, SEEN]
