"""Asks and commits of reservations that are as most are, each in one statement.

An ask is held by one bucket that covers it whole; a commit's reservation holds units of the one
bucket that its usage draws. All that was only remembered of them is put to the test under locks.
"""

# SQLSTATE TB001: the terms have changed since they were read, or the key was revoked. Whoever
# changes them waits for the operator's lock, which is shared by all who go by them.
CHECK_TERMS = """
CREATE FUNCTION subscriptions_check_terms(
    operator bigint, api_key bigint, clock timestamptz, grace interval, zone text, card text,
    card_stamp bigint
) RETURNS void LANGUAGE plpgsql
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
END $$;
"""
TYPES = """
CREATE TYPE subscriptions_ask AS (
    subscriber_id bigint, bucket_id bigint, generation bigint, units bigint, ttl int,
    name text, fingerprint bytea, head text, tail text
);
CREATE TYPE subscriptions_commit AS (
    subscriber_id bigint, bucket_id bigint, units bigint, name text, fingerprint bytea,
    head text, tail text
);
CREATE FUNCTION subscriptions_wire(units bigint) RETURNS text LANGUAGE sql IMMUTABLE
RETURN (units / 1000) || '.' || lpad((units % 1000)::text, 3, '0');
"""
# Asks come in the order of locks, each of another subscriber. Buckets first, then what is new:
# nothing is waited for after that. SQLSTATE TB002: a bucket was emptied or overtaken; TB003: a name
# is taken, or what a subscriber has is not what it seems, for a hold has outlived its time.
RESERVE = """
CREATE FUNCTION subscriptions_reserve_few(
    operator bigint, api_key bigint, gateway bigint, moment timestamptz,
    clock timestamptz, grace interval, zone text, card text, card_stamp bigint,
    asks subscriptions_ask[]
) RETURNS bigint[] LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    done bigint;
    available bigint[];
BEGIN
    PERFORM subscriptions_check_terms(operator, api_key, clock, grace, zone, card, card_stamp);
    WITH u AS (
        UPDATE subscriptions_bucket b SET reserved = b.reserved + a.units
        FROM unnest(asks) AS a
        WHERE b.subscriber_id = a.subscriber_id AND b.id = a.bucket_id
          AND b.generation = a.generation AND b.kind <> 'uncovered'
          AND b.valid_from <= moment AND b.valid_until > moment
          AND (b.granted IS NULL OR b.granted >= b.used + b.reserved + a.units)
        RETURNING 1
    )
    SELECT count(*) INTO done FROM u;
    IF done <> cardinality(asks) THEN
        RAISE EXCEPTION 'a bucket was emptied or overtaken' USING ERRCODE = 'TB002';
    END IF;
    PERFORM FROM unnest(asks) AS a
    JOIN subscriptions_reservation r
      ON r.subscriber_id = a.subscriber_id AND r.state = 1 AND r.expires_at <= moment;
    IF FOUND THEN
        RAISE EXCEPTION 'a hold has outlived its time' USING ERRCODE = 'TB003';
    END IF;
    SELECT array_agg(t.available ORDER BY t.nr) INTO available
    FROM (
        SELECT a.nr, (
            SELECT CASE WHEN bool_or(b.kind = 'pool') THEN NULL ELSE
                       coalesce(sum(b.granted - b.used - b.reserved), 0)::bigint END
            FROM subscriptions_bucket b
            WHERE b.subscriber_id = a.subscriber_id
              AND b.valid_until > moment AND b.valid_from <= moment
              AND b.kind IN ('rollover', 'gift', 'allowance', 'booster', 'pool')
        ) AS available
        FROM unnest(asks) WITH ORDINALITY
             AS a (subscriber_id, bucket_id, generation, units, ttl, name, fingerprint, head, tail,
                   nr)
    ) t;
    IF array_position(available, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'a subscriber has a pool' USING ERRCODE = 'TB003';
    END IF;
    INSERT INTO subscriptions_reservationname
        (gateway_id, name, operator_id, subscriber_id, fingerprint, answer, created_at)
    SELECT gateway, a.name, operator, a.subscriber_id, a.fingerprint,
           (a.head || subscriptions_wire(available[a.nr]) || a.tail)::jsonb, moment
    FROM unnest(asks) WITH ORDINALITY
         AS a (subscriber_id, bucket_id, generation, units, ttl, name, fingerprint, head, tail, nr)
    ORDER BY a.name
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS done = ROW_COUNT;
    IF done <> cardinality(asks) THEN
        RAISE EXCEPTION 'a name is taken' USING ERRCODE = 'TB003';
    END IF;
    INSERT INTO subscriptions_reservation
        (subscriber_id, gateway_id, name, operator_id, state, holds, held, promised, slice_units,
         final, rated_tokens, ttl_seconds, subject, created_at, expires_at, late)
    SELECT a.subscriber_id, gateway, a.name, operator, 1,
           jsonb_build_array(jsonb_build_array(a.bucket_id, a.units)), a.units, 0, NULL, false, 0,
           a.ttl, '', moment, moment + a.ttl * interval '1 second', false
    FROM unnest(asks) AS a;
    RETURN available;
END $$;
"""
# Settles the reservations one by one, in the order of locks in which they come, and then frees what
# they held of their buckets, right before the draw. By their keys alone: an index of open ones is
# full of what was open a moment ago, and to a planner without statistics looks as good. TB003: one
# is settled, over, a slice, holds units of other buckets or none; or its bucket has ended, or was
# held to the last unit: what comes of units given back then is more than this.
SETTLE = """
CREATE FUNCTION subscriptions_settle_few(
    gateway bigint, moment timestamptz, commits subscriptions_commit[]
) RETURNS bigint[] LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    one subscriptions_commit;
    given_back bigint;
    freed bigint[] := '{}';
    due bigint;
    done bigint;
BEGIN
    FOREACH one IN ARRAY commits LOOP
        UPDATE subscriptions_reservation r
        SET state = 2, settled_at = moment, commit_fingerprint = one.fingerprint,
            answer = (one.head || subscriptions_wire(greatest(0, r.held - one.units)) || one.tail)::jsonb
        WHERE r.subscriber_id = one.subscriber_id AND r.gateway_id = gateway AND r.name = one.name
          AND r.state + 0 = 1 AND r.expires_at > moment AND r.slice_units IS NULL
          AND r.promised = 0 AND r.rated_tokens = 0
          AND r.holds = jsonb_build_array(jsonb_build_array(one.bucket_id, r.held))
        RETURNING r.held INTO given_back;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'a reservation is not plainly open' USING ERRCODE = 'TB003';
        END IF;
        freed := freed || given_back;
    END LOOP;
    WITH f AS (
        SELECT c.subscriber_id, c.bucket_id, sum(freed[c.nr])::bigint AS units
        FROM unnest(commits) WITH ORDINALITY
             AS c (subscriber_id, bucket_id, units, name, fingerprint, head, tail, nr)
        GROUP BY 1, 2 ORDER BY 1, 2
    ), u AS (
        UPDATE subscriptions_bucket b SET reserved = b.reserved - f.units FROM f
        WHERE b.subscriber_id = f.subscriber_id AND b.id = f.bucket_id AND b.valid_until > moment
          AND (b.granted IS NULL OR b.granted > b.used + b.reserved)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM f), count(*) INTO due, done FROM u;
    IF done <> due THEN
        RAISE EXCEPTION 'what is given back has consequences' USING ERRCODE = 'TB003';
    END IF;
    RETURN freed;
END $$;
"""

FUNCTIONS = CHECK_TERMS + TYPES + RESERVE + SETTLE
