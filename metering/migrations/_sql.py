"""The partitioned table of usage records. Its keys are made on each day: metering/records.py."""

CREATE_RECORDS = """
CREATE TABLE metering_usagerecord (
    subscriber_id bigint NOT NULL,
    gateway_id bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    batch_id bigint NOT NULL,
    subject_id bigint NOT NULL,
    weight_id bigint NOT NULL,
    units bigint NOT NULL CONSTRAINT usage_units_not_negative CHECK (units >= 0),
    uncached_input_tokens integer NOT NULL,
    cached_input_tokens integer NOT NULL,
    cache_write_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    reasoning_tokens integer NOT NULL,
    record_id varchar(512) NOT NULL,
    model varchar(256) NOT NULL,
    source varchar(256) NOT NULL,
    outcome varchar(32) NOT NULL,
    attributes jsonb,
    CONSTRAINT usage_tokens_not_negative CHECK (
        LEAST(uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
              reasoning_tokens) >= 0
    )
) PARTITION BY RANGE (occurred_at);
"""
DROP_RECORDS = "DROP TABLE metering_usagerecord"
