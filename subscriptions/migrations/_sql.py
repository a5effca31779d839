"""What the first migration says that Django's operations cannot: sequences, the partitioned
journal, keys that do not wait for the commit, and offerings that stay as they were sold."""

CREATE_SEQUENCES = """
CREATE SEQUENCE subscriptions_subscription_id;
CREATE SEQUENCE subscriptions_bucket_id CACHE 32;
CREATE SEQUENCE subscriptions_batch_id;
"""
DROP_SEQUENCES = """
DROP SEQUENCE subscriptions_subscription_id;
DROP SEQUENCE subscriptions_bucket_id;
DROP SEQUENCE subscriptions_batch_id;
"""

# The day is the operator's time of the movement; subscriptions/partitions.py makes the days, each
# with the key (subscriber_id, batch_id, bucket_id, kind).
CREATE_JOURNAL = """
CREATE TABLE subscriptions_bucketentry (
    subscriber_id bigint NOT NULL,
    batch_id bigint NOT NULL,
    bucket_id bigint NOT NULL,
    kind smallint NOT NULL,
    units bigint NOT NULL CONSTRAINT bucket_entry_moves_something CHECK (units <> 0),
    charged_at timestamptz NOT NULL
) PARTITION BY RANGE (charged_at);
"""
DROP_JOURNAL = "DROP TABLE subscriptions_bucketentry"

# Foreign keys of bucket rows are checked at once: a deferred one would put its check into the
# commit, while locks are held. Buckets are updated all the time: room for it on each page.
_OFFERINGS = (
    "subscriptions_ratecard",
    "subscriptions_ratecardweight",
    "subscriptions_plan",
    "subscriptions_plancomponent",
    "subscriptions_booster",
)
KEEP_RULES = """
ALTER TABLE subscriptions_subscription
    ADD CONSTRAINT subscription_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
ALTER TABLE subscriptions_bucket
    ADD CONSTRAINT bucket_has_a_subscriber
    FOREIGN KEY (subscriber_id) REFERENCES subscriptions_subscriber (id);
ALTER TABLE subscriptions_bucket SET (
    fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.2
);
CREATE FUNCTION subscriptions_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is immutable: publish a new version instead', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;
""" + "".join(
    f"CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON {table}"
    " FOR EACH ROW EXECUTE FUNCTION subscriptions_refuse_change();\n"
    for table in _OFFERINGS
)
LOOSEN_RULES = (
    "".join(f"DROP TRIGGER immutable ON {table};\n" for table in _OFFERINGS)
    + """
DROP FUNCTION subscriptions_refuse_change();
ALTER TABLE subscriptions_bucket DROP CONSTRAINT bucket_has_a_subscriber;
ALTER TABLE subscriptions_subscription DROP CONSTRAINT subscription_has_a_subscriber;
"""
)
