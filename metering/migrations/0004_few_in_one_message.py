"""A few records and all that their charge asks, in one message that is a transaction by itself.

The records come as one array of rows, which is quicker to make and to read than an array for each
column. An id that is found on a day near its own ends the charge in the server.
"""

from importlib import import_module

from django.db import migrations

LINE = """
CREATE TYPE metering_line AS (
    subscriber_id bigint, occurred_at timestamptz, subject_id bigint, weight_id bigint,
    units bigint, uncached_input_tokens int, cached_input_tokens int, cache_write_tokens int,
    output_tokens int, reasoning_tokens int, record_id text, model text, source text, outcome text,
    attributes jsonb
)
"""
# Only for usage of which every bucket is known; whoever calls looks afterwards at the days around,
# before the commit. The operator's lock comes first, as in every charge, and what was remembered of
# its terms is compared under it. SQLSTATE TB001: they have changed, or the key was revoked; TB002,
# from the draw: a bucket was emptied or overtaken.
CREATE = """
CREATE FUNCTION metering_charge_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint, batch bigint,
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    lines metering_line[]
) RETURNS bigint[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7001, (operator & 2147483647)::int);
    PERFORM FROM subscriptions_operator o
    JOIN subscriptions_apikey k ON k.operator_id = o.id
    WHERE o.id = operator AND k.id = api_key AND k.revoked_at IS NULL
      AND o.clock_at IS NOT DISTINCT FROM clock AND o.late_grace = grace AND o.time_zone = zone
      AND o.default_rate_card = card
      AND card_stamp = coalesce(
          (SELECT max(c.id) FROM subscriptions_ratecard c WHERE c.operator_id = o.id), 0);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the terms have changed' USING ERRCODE = 'TB001';
    END IF;
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
    RETURN subscriptions_draw(subscribers, buckets, units, generations, batch, moment);
END $$
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
_before = import_module("metering.migrations.0002_charge_few_in_one_call")


class Migration(migrations.Migration):
    dependencies = [("metering", "0003_suspected_repeats")]

    operations = [
        migrations.RunSQL(_before.DROP, _before.CREATE),
        migrations.RunSQL(LINE, "DROP TYPE metering_line"),
        migrations.RunSQL(CREATE, _before.DROP),
        migrations.RunSQL(SEEN, "DROP FUNCTION metering_seen_before"),
    ]
