"""The draw as a function of the database: the charge of many records and of few call the same."""

# Rows come and are locked in the order of the arrays: the function's settings hold the planner to a
# nested loop, and its plans never change. A bucket that no longer covers its draw, or of another
# generation than expected (-1: locked already), is not touched, and the count tells: what the
# journal says is what was drawn, or nothing. It is written first, for nobody waits for its rows, and
# others wait for the buckets from their update to the commit. Answers the subscribers whose bucket
# could hardly pay the same again. SQLSTATE TB002: some bucket was emptied or overtaken meanwhile;
# its detail are the subscribers, or some more inside a savepoint.
DRAW = """
CREATE FUNCTION subscriptions_draw(
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    batch bigint, moment timestamptz
) RETURNS bigint[] LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    drawn bigint;
    emptied bigint[];
    low bigint[];
    crossed boolean;
    others text;
BEGIN
    INSERT INTO subscriptions_bucketentry
        (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
    SELECT d.subscriber_id, batch, d.bucket_id, 2, d.units, moment
    FROM unnest(subscribers, buckets, units) AS d (subscriber_id, bucket_id, units);
    WITH d AS (
        SELECT * FROM unnest(subscribers, buckets, units, generations)
            AS d (subscriber_id, bucket_id, units, generation)
    ), u AS (
        UPDATE subscriptions_bucket b SET used = b.used + d.units FROM d
        WHERE b.subscriber_id = d.subscriber_id AND b.id = d.bucket_id
          AND (b.granted IS NULL OR b.granted >= b.used + b.reserved + d.units)
          AND (d.generation = -1 OR b.generation = d.generation)
        RETURNING b.subscriber_id, b.id, b.kind, b.granted, b.used, b.reserved, d.units
    )
    SELECT count(*),
           array_agg(u.subscriber_id) FILTER (WHERE u.granted = u.used AND u.kind <> 'overage'),
           array_agg(u.subscriber_id) FILTER (
               WHERE u.granted - u.used - u.reserved < greatest(4 * u.units, u.granted / 16)),
           bool_or(u.granted > 0 AND u.used >= u.granted - u.granted / 2
                   AND (u.used - u.units < u.granted - u.granted / 2
                        OR (u.used >= u.granted - u.granted / 5
                            AND u.used - u.units < u.granted - u.granted / 5)
                        OR u.used = u.granted))
    INTO drawn, emptied, low, crossed FROM u;
    IF drawn <> cardinality(subscribers) THEN
        -- Whose: all those whose bucket this transaction has not written.
        SELECT string_agg(d.subscriber_id::text, ',') INTO others
        FROM unnest(subscribers, buckets) AS d (subscriber_id, bucket_id)
        LEFT JOIN subscriptions_bucket b
          ON b.subscriber_id = d.subscriber_id AND b.id = d.bucket_id
        WHERE b.xmin IS DISTINCT FROM pg_current_xact_id()::xid;
        RAISE EXCEPTION 'a bucket was emptied or overtaken'
            USING ERRCODE = 'TB002', DETAIL = coalesce(others, '');
    END IF;
    -- Rare, so in statements of their own: even one that finds nothing to do has to be begun.
    IF crossed THEN
        INSERT INTO subscriptions_outboxevent (subscriber_id, key, kind, payload, occurred_at)
        SELECT b.subscriber_id, 'bucket:' || b.id || ':' || t.percent, 'bucket.threshold',
               jsonb_build_object('bucket', b.id, 'kind', b.kind, 'percent', t.percent,
                                  'granted', b.granted, 'used', b.used), moment
        FROM unnest(subscribers, buckets, units) AS d (subscriber_id, bucket_id, units)
        JOIN subscriptions_bucket b
          ON b.subscriber_id = d.subscriber_id AND b.id = d.bucket_id AND b.granted > 0
        CROSS JOIN LATERAL (
            VALUES (50, b.granted - b.granted / 2), (80, b.granted - b.granted / 5),
                   (100, b.granted)
        ) AS t (percent, at_used)
        WHERE b.used >= t.at_used AND b.used - d.units < t.at_used
        ON CONFLICT DO NOTHING;
    END IF;
    IF emptied IS NOT NULL THEN
        INSERT INTO subscriptions_outboxevent (subscriber_id, key, kind, payload, occurred_at)
        SELECT s.id, 'exhausted:' || batch, 'bucket.exhausted', '{}', moment
        FROM unnest(emptied) AS s (id)
        WHERE NOT EXISTS (
            SELECT FROM subscriptions_bucket b
            WHERE b.subscriber_id = s.id AND b.valid_from <= moment AND b.valid_until > moment
              AND b.kind IN ('rollover', 'gift', 'allowance', 'booster') AND b.granted > b.used
        )
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN low;
END $$;
"""
