"""Whether what families share adds up, asked of the rows themselves: checks of reconciliation.py
by another way than the draw's, from the journal and the records.
"""

from __future__ import annotations

from metering.reconciliation import Check

# What a mirror's grant key says: whose bucket lends, which, in which month, for which membership.
_MIRROR = """
    SELECT b.*, split_part(b.grant_key, ':', 2)::bigint AS owner_id,
           split_part(b.grant_key, ':', 3)::bigint AS lender_id,
           split_part(b.grant_key, ':', 4) AS month,
           split_part(b.grant_key, ':', 5)::bigint AS member_id
    FROM subscriptions_bucket b
    WHERE b.kind = 'pool' AND b.grant_key LIKE 'pool:%%:%%'
"""

# Batch by batch, what left a main line's bucket is what came to the mirrors of it, and the other
# way round where usage is void.
_POOL_LENT = f"""
SELECT s.operator_id, CASE WHEN g.lent <> g.come THEN jsonb_build_object(
           'main_line', g.owner_id, 'bucket', g.lender_id, 'batch', g.batch_id,
           'lent', g.lent, 'come_to_members', g.come) END AS wrong
FROM (
    SELECT owner_id, lender_id, batch_id, sum(lent)::bigint AS lent, sum(come)::bigint AS come
    FROM (
        SELECT e.subscriber_id AS owner_id, e.bucket_id AS lender_id, e.batch_id,
               e.units AS lent, 0 AS come
        FROM subscriptions_bucketentry e WHERE e.kind IN (%(shared)s, %(unshared)s)
        UNION ALL
        SELECT m.owner_id, m.lender_id, e.batch_id, 0, -e.units
        FROM ({_MIRROR}) m
        JOIN subscriptions_bucketentry e
          ON e.subscriber_id = m.subscriber_id AND e.bucket_id = m.id
         AND e.kind IN (%(grant)s, %(returned)s)
    ) u
    GROUP BY 1, 2, 3
) g
LEFT JOIN subscriptions_subscriber s ON s.id = g.owner_id
"""  # noqa: S608 - of constants

# Nothing stays in a member's pool buckets; a mirror is of a bucket that its family's main line
# shares or shared, and of a time in which it was a membership.
_POOL_EMPTY = f"""
SELECT s.operator_id, CASE
           WHEN b.granted <> b.used OR b.reserved <> 0
             OR b.lender_id IS NULL AND b.granted <> 0
             OR b.lender_id IS NOT NULL AND (
                 m.id IS NULL OR m.subscriber_id <> b.subscriber_id OR f.owner_id <> b.owner_id
                 OR m.is_owner OR b.valid_from < m.since OR l.id IS NULL
                 OR l.kind NOT IN ('rollover', 'gift', 'allowance', 'booster')
                 OR b.valid_from < l.valid_from)
           THEN jsonb_build_object(
               'subscriber', b.subscriber_id, 'bucket', b.id, 'key', b.grant_key,
               'granted', b.granted, 'used', b.used, 'reserved', b.reserved) END AS wrong
FROM (
    {_MIRROR}
    UNION ALL
    SELECT b.*, NULL, NULL, NULL, split_part(b.grant_key, ':', 2)::bigint
    FROM subscriptions_bucket b
    WHERE b.kind = 'pool' AND b.grant_key NOT LIKE 'pool:%%:%%'
) b
JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
LEFT JOIN subscriptions_familymember m ON m.id = b.member_id
LEFT JOIN subscriptions_family f ON f.id = m.family_id
LEFT JOIN subscriptions_bucket l ON l.subscriber_id = b.owner_id AND l.id = b.lender_id
"""  # noqa: S608 - of constants

# Of a batch no more was drawn of a main line than its records came to that happened while their
# subscriber was a member and the main line was not suspended.
_POOL_ALLOWED = f"""
SELECT s.operator_id, CASE WHEN d.units > coalesce(r.units, 0) THEN jsonb_build_object(
           'subscriber', d.subscriber_id, 'batch', d.batch_id, 'membership', d.member_id,
           'drawn', d.units, 'may_be_drawn', r.units) END AS wrong
FROM (
    SELECT e.subscriber_id, e.batch_id, m.owner_id, m.member_id, e.charged_at,
           sum(e.units) AS units
    FROM ({_MIRROR}) m
    JOIN subscriptions_bucketentry e
      ON e.subscriber_id = m.subscriber_id AND e.bucket_id = m.id AND e.kind = %(usage)s
    JOIN metering_usagebatch t
      ON t.id = e.batch_id AND t.occurred_from >= %(records_since)s
    GROUP BY 1, 2, 3, 4, 5
) d
JOIN subscriptions_subscriber s ON s.id = d.subscriber_id
JOIN subscriptions_familymember m ON m.id = d.member_id
LEFT JOIN LATERAL (
    SELECT sum(r.units) AS units
    FROM metering_usagerecord r
    WHERE r.subscriber_id = d.subscriber_id AND r.batch_id = d.batch_id
      AND r.occurred_at >= m.since
      AND (m.until IS NULL OR r.occurred_at < m.until OR d.charged_at <= m.until)
      AND NOT EXISTS (
          SELECT FROM subscriptions_suspension x
          WHERE x.subscriber_id = d.owner_id AND x.starts_at < d.charged_at
            AND x.starts_at <= r.occurred_at
            AND (x.ends_at IS NULL OR r.occurred_at < x.ends_at))
) r ON true
"""  # noqa: S608 - of constants

# A family has its one main line and at most nine others; who is a member now has the bucket by
# which a charge knows it, and nobody else has.
_FAMILY_MEMBERS = """
SELECT f.operator_id, CASE
           WHEN m.owners <> 1 OR f.dissolved_at IS NOT NULL AND m.now > 0
             OR f.kind = 'family' AND m.others > 9 OR m.unmarked > 0 OR m.strangers > 0
           THEN jsonb_build_object(
               'family', f.id, 'main_lines', m.owners, 'members_now', m.others,
               'without_their_bucket', m.unmarked, 'of_other_operators', m.strangers) END AS wrong
FROM subscriptions_family f
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE m.is_owner AND m.subscriber_id = f.owner_id) AS owners,
           count(*) FILTER (WHERE m.until IS NULL) AS now,
           count(*) FILTER (WHERE m.until IS NULL AND NOT m.is_owner) AS others,
           count(*) FILTER (WHERE s.operator_id <> f.operator_id) AS strangers,
           count(*) FILTER (WHERE NOT m.is_owner AND (m.until IS NULL) <> EXISTS (
               SELECT FROM subscriptions_bucket b
               WHERE b.subscriber_id = m.subscriber_id AND b.kind = 'pool'
                 AND b.grant_key = 'pool:' || m.id AND b.valid_from = m.since
                 AND b.valid_until > '9000-01-01')) AS unmarked
    FROM subscriptions_familymember m
    JOIN subscriptions_subscriber s ON s.id = m.subscriber_id
    WHERE m.family_id = f.id
) m
"""

# What left the giver's buckets is what the gift says and what came to the receiver's, for as long
# as it would have been valid.
_GIFTS = """
SELECT coalesce(f.operator_id, s.operator_id), CASE
           WHEN g.id IS NULL OR g.units IS DISTINCT FROM e.gone OR g.units IS DISTINCT FROM e.come
             OR e.strange
           THEN jsonb_build_object(
               'gift', g.id, 'batch', batch_id, 'units', g.units, 'gone', e.gone,
               'come', e.come) END AS wrong
FROM (
    SELECT * FROM subscriptions_familygift WHERE at >= %(journal_since)s
) g
FULL JOIN (
    SELECT e.batch_id, min(e.subscriber_id) FILTER (WHERE e.kind = %(given)s) AS subscriber_id,
           sum(e.units) FILTER (WHERE e.kind = %(given)s) AS gone,
           -sum(e.units) FILTER (WHERE e.kind = %(grant)s) AS come,
           bool_or(e.subscriber_id <> CASE e.kind WHEN %(given)s THEN g.giver_id
                                                  ELSE g.receiver_id END
                   OR e.kind = %(given)s AND b.kind NOT IN ('rollover', 'allowance')
                   OR e.kind = %(grant)s AND b.kind <> 'gift') AS strange
    FROM subscriptions_bucketentry e
    LEFT JOIN subscriptions_familygift g ON g.batch_id = e.batch_id
    LEFT JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
    WHERE e.batch_id IN (SELECT batch_id FROM subscriptions_bucketentry WHERE kind = %(given)s)
    GROUP BY 1
) e USING (batch_id)
LEFT JOIN subscriptions_family f ON f.id = g.family_id
LEFT JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
"""

CHECKS = (
    Check("pool_lent", "what main lines lent = what members drew", _POOL_LENT),
    Check("pool_empty", "nothing stays in a member's pool bucket", _POOL_EMPTY),
    Check("pool_allowed", "a pool pays only for its members' usage", _POOL_ALLOWED),
    Check("family_members", "a family has its members and no more", _FAMILY_MEMBERS),
    Check("family_gifts", "what one gave = what the other got", _GIFTS),
)
