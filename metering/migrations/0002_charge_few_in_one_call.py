"""A few records charged in one round trip: for gateways that send each record by itself."""

from django.db import migrations

# Only for usage that is remembered in every point; whoever calls looks afterwards at the days
# around, before the commit. The operator's lock comes first, as in every charge, and what was
# remembered of its terms is compared under it. SQLSTATE TB001: they have changed, or the key was
# revoked; TB002, from the draw: a bucket was emptied or overtaken.
CREATE = """
CREATE FUNCTION metering_charge_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint, batch bigint,
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    occurred_from timestamptz, occurred_to timestamptz,
    r_subscriber bigint[], r_occurred timestamptz[], r_subject bigint[], r_weight bigint[],
    r_units bigint[], r_uncached bigint[], r_cached bigint[], r_written bigint[],
    r_output bigint[], r_reasoning bigint[], r_id text[], r_model text[], r_source text[],
    r_outcome text[], r_attributes text[]
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
    SELECT r.subscriber, gateway, r.occurred, batch, r.subject, r.weight, r.units, r.uncached,
           r.cached, r.written, r.output, r.reasoning, r.id, r.model, r.source, r.outcome,
           nullif(r.attributes, '')::jsonb
    FROM unnest(r_subscriber, r_occurred, r_subject, r_weight, r_units, r_uncached, r_cached,
                r_written, r_output, r_reasoning, r_id, r_model, r_source, r_outcome, r_attributes)
         AS r (subscriber, occurred, subject, weight, units, uncached, cached, written, output,
               reasoning, id, model, source, outcome, attributes);
    INSERT INTO metering_usagebatch
        (id, operator_id, gateway_id, charged_at, stored_at, records, units, occurred_from,
         occurred_to)
    SELECT batch, operator, gateway, moment, clock_timestamp(), cardinality(r_units), sum(s.units),
           metering_charge_few.occurred_from, metering_charge_few.occurred_to
    FROM unnest(r_units) AS s (units);
    RETURN subscriptions_draw(subscribers, buckets, units, generations, batch, moment);
END $$;
"""
DROP = "DROP FUNCTION metering_charge_few"


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0001_initial"),
        ("subscriptions", "0002_draw_in_one_call"),
    ]

    operations = [migrations.RunSQL(CREATE, DROP)]
