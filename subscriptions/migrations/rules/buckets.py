"""Buckets and their journal, whose numbers are drawn before their rows are written."""

SEQUENCES = """
CREATE SEQUENCE subscriptions_subscription_id;
CREATE SEQUENCE subscriptions_bucket_id CACHE 32;
CREATE SEQUENCE subscriptions_batch_id;
"""

# The day is the operator's time of the movement; subscriptions/partitions.py makes the days, each
# with the key (subscriber_id, batch_id, bucket_id, kind).
JOURNAL = """
CREATE TABLE subscriptions_bucketentry (
    subscriber_id bigint NOT NULL,
    batch_id bigint NOT NULL,
    bucket_id bigint NOT NULL,
    kind smallint NOT NULL,
    units bigint NOT NULL CONSTRAINT bucket_entry_moves_something CHECK (units <> 0),
    charged_at timestamptz NOT NULL
) PARTITION BY RANGE (charged_at);
"""

# Foreign keys of bucket rows are checked at once: a deferred one would put its check into the
# commit, while locks are held. Buckets are updated all the time: room for it on each page. Their
# statistics are of who holds what, and what a charge writes changes none of them.
RULES = """
ALTER TABLE subscriptions_subscription
    ADD CONSTRAINT subscription_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
ALTER TABLE subscriptions_bucket
    ADD CONSTRAINT bucket_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
ALTER TABLE subscriptions_bucket SET (
    fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 5
);
"""
