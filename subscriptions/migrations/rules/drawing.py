"""The draw as a function of the database: the charge of many records and of few call the same."""

# Rows come and are locked in the order of the arrays: the function's settings hold the planner to a
# nested loop, and its plans never change. A bucket that no longer covers its draw, or of another
# generation than expected (-1: locked already), is not touched, and the count tells: what the
# journal says is what was drawn, or nothing. It is written first, for nobody waits for its rows, and
# others wait for the buckets from their update to the commit. Answers the subscribers whose bucket
# could hardly pay the same again. Buckets of `empties` must have nothing left after it: what they do
# not cover was reckoned to others. Each row tells a sum, most of them nothing: 1 it is emptied, 2 it
# is low, 4 it crosses a threshold, 8 it has something left and must not. SQLSTATE TB002: some bucket
# was emptied, overtaken or filled meanwhile; its detail are their subscribers, and maybe some more
# whose bucket is nearly empty.
# Who is held is so before any bucket is locked, and behind the journal, for which nobody waits.
DRAW = """
CREATE FUNCTION subscriptions_draw(
    subscribers bigint[], buckets bigint[], units bigint[], generations bigint[],
    batch bigint, moment timestamptz, empties bigint[] DEFAULT '{}',
    operator bigint DEFAULT NULL, held bigint[] DEFAULT NULL
) RETURNS bigint[] LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    drawn bigint;
    emptied bigint[];
    low bigint[];
    crossed bigint[];
    others text;
BEGIN
    INSERT INTO subscriptions_bucketentry
        (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
    SELECT d.subscriber_id, batch, d.bucket_id, 2, d.units, moment
    FROM unnest(subscribers, buckets, units) AS d (subscriber_id, bucket_id, units);
    IF held IS NOT NULL THEN
        PERFORM subscriptions_hold(operator, held);
    END IF;
    WITH d AS (
        SELECT * FROM unnest(subscribers, buckets, units, generations)
            AS d (subscriber_id, bucket_id, units, generation)
    ), u AS (
        UPDATE subscriptions_bucket b SET used = b.used + d.units FROM d
        WHERE b.subscriber_id = d.subscriber_id AND b.id = d.bucket_id
          AND (b.granted IS NULL OR b.granted >= b.used + b.reserved + d.units)
          AND (d.generation = -1 OR b.generation = d.generation)
        RETURNING b.subscriber_id, CASE
            WHEN b.granted IS NULL THEN 0
            WHEN b.used < b.granted - b.granted / 2 AND b.id <> ALL (empties)
             AND b.granted - b.used - b.reserved >= greatest(4 * d.units, b.granted / 8) THEN 0
            ELSE (b.granted = b.used AND b.kind <> 'overage')::int
               + 2 * (b.granted - b.used - b.reserved
                      < greatest(4 * d.units, b.granted / 8))::int
               + 4 * (b.granted > 0 AND b.used >= b.granted - b.granted / 2
                      AND (b.used - d.units < b.granted - b.granted / 2
                           OR (b.used >= b.granted - b.granted / 5
                               AND b.used - d.units < b.granted - b.granted / 5)
                           OR b.used = b.granted))::int
               + 8 * (b.id = ANY (empties) AND b.granted > b.used + b.reserved)::int
        END AS told
    )
    SELECT count(*) FILTER (WHERE told < 8),
           array_agg(subscriber_id) FILTER (WHERE told & 1 > 0),
           array_agg(subscriber_id) FILTER (WHERE told & 2 > 0),
           array_agg(subscriber_id) FILTER (WHERE told & 4 > 0)
    INTO drawn, emptied, low, crossed FROM u;
    IF drawn <> cardinality(subscribers) THEN
        -- Whose: some more may be told, whose bucket could not pay the same once more.
        SELECT string_agg(d.subscriber_id::text, ',') INTO others
        FROM unnest(subscribers, buckets, units, generations)
            AS d (subscriber_id, bucket_id, units, generation)
        LEFT JOIN subscriptions_bucket b
          ON b.subscriber_id = d.subscriber_id AND b.id = d.bucket_id
        WHERE b.id IS NULL OR b.granted < b.used + b.reserved + d.units
           OR (b.id = ANY (empties) AND b.granted > b.used + b.reserved)
           OR (d.generation <> -1 AND b.generation <> d.generation);
        RAISE EXCEPTION 'a bucket was emptied or overtaken'
            USING ERRCODE = 'TB002', DETAIL = coalesce(others, '');
    END IF;
    -- Of few, so in statements of their own that read none but theirs: of a thousand draws one or
    -- two cross a threshold.
    IF crossed IS NOT NULL THEN
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
        WHERE d.subscriber_id = ANY (crossed)
          AND b.used >= t.at_used AND b.used - d.units < t.at_used
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
# Locks of subscribers, in the order of the array, for who may draw of their buckets what another
# would draw of others. The form with one key is theirs alone: every other advisory lock has two
# (subscriptions/advisory.py). Without any it is all of the operator's: a server has room for some
# thousand locks.
HOLD = """
CREATE FUNCTION subscriptions_hold(operator bigint, held bigint[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF cardinality(held) = 0 THEN
        PERFORM pg_advisory_xact_lock(7009, (operator & 2147483647)::int);
    ELSE
        PERFORM pg_advisory_xact_lock_shared(7009, (operator & 2147483647)::int);
        PERFORM pg_advisory_xact_lock(h.id) FROM unnest(held) AS h (id);
    END IF;
END $$;
"""
