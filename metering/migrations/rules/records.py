"""The partitioned tables of usage records, and of what adjusted them.

Their keys are made on each day: metering/records.py.
"""

RECORDS = """
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

# Rows against records, in the records' days: metering/adjusting.py makes them, each with the key
# (subscriber_id, gateway_id, source, record_id, nr).
ADJUSTED = """
CREATE TABLE metering_adjustedrecord (
    subscriber_id bigint NOT NULL,
    gateway_id bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    nr integer NOT NULL CONSTRAINT adjusted_nr_from_1 CHECK (nr > 0),
    batch_id bigint NOT NULL,
    requests smallint NOT NULL CONSTRAINT adjusted_rows_alternate CHECK (
        requests = CASE WHEN nr % 2 = 1 THEN -1 ELSE 1 END
    ),
    weight_id bigint NOT NULL,
    units bigint NOT NULL CONSTRAINT adjusted_units_have_the_sign CHECK (units * requests >= 0),
    uncached_input_tokens integer NOT NULL,
    cached_input_tokens integer NOT NULL,
    cache_write_tokens integer NOT NULL,
    output_tokens integer NOT NULL,
    reasoning_tokens integer NOT NULL,
    record_id varchar(512) NOT NULL,
    model varchar(256) NOT NULL,
    source varchar(256) NOT NULL,
    outcome varchar(32) NOT NULL,
    draws jsonb NOT NULL,
    CONSTRAINT adjusted_tokens_have_the_sign CHECK (
        LEAST(requests * uncached_input_tokens, requests * cached_input_tokens,
              requests * cache_write_tokens, requests * output_tokens,
              requests * reasoning_tokens) >= 0
    )
) PARTITION BY RANGE (occurred_at);
"""
