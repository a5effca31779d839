"""Few records under reservations, in one message as those without: stored, settled, drawn."""

from importlib import import_module

from django.db import migrations

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
END $$;
"""
CHARGE = """
CREATE OR REPLACE FUNCTION metering_charge_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint, batch bigint,
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    lines metering_line[]
) RETURNS bigint[] LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM metering_store_few(
        operator, api_key, gateway, moment, clock, grace, zone, card, card_stamp, batch, lines);
    RETURN subscriptions_draw(subscribers, buckets, units, generations, batch, moment);
END $$;
"""
# Locks in the order that all keep: records, reservations, buckets.
COMMIT = """
CREATE FUNCTION metering_commit_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint, batch bigint,
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    lines metering_line[], commits subscriptions_commit[],
    OUT low bigint[], OUT freed bigint[]
) LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM metering_store_few(
        operator, api_key, gateway, moment, clock, grace, zone, card, card_stamp, batch, lines);
    freed := subscriptions_settle_few(gateway, moment, commits);
    low := subscriptions_draw(subscribers, buckets, units, generations, batch, moment);
END $$;
"""
BEFORE: str = import_module("metering.migrations.0004_few_in_one_message").CREATE.replace(
    "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
)
DROP = "DROP FUNCTION metering_commit_few, metering_store_few"


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0007_rerating"),
        ("subscriptions", "0012_reserve_few"),
    ]

    operations = [
        migrations.RunSQL(STORE, migrations.RunSQL.noop),
        migrations.RunSQL(CHARGE, BEFORE),
        migrations.RunSQL(COMMIT, DROP),
    ]
