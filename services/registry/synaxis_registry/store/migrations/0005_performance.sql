-- How long endpoints take and how often they fail, by the minute and by the hour: sketches (t-digests) that are
-- merged into windows of five minutes and of a day. They take the place of the last hundred single measurements.
CREATE TABLE endpoint_window (
    provider_id       text NOT NULL,
    provider_model_id text NOT NULL,
    span_s            integer NOT NULL CHECK (span_s IN (60, 3600)),
    since             timestamptz NOT NULL,
    requests          bigint NOT NULL,
    failures          bigint NOT NULL,
    ttft              bytea NOT NULL,
    total             bytea NOT NULL,
    speed             bytea NOT NULL,
    PRIMARY KEY (provider_id, provider_model_id, span_s, since)
);
CREATE INDEX endpoint_window_since ON endpoint_window (since);
COMMENT ON COLUMN endpoint_window.failures IS 'They have no times: a fast failure must attract no traffic.';

-- What came of attempts at a whole provider, in buckets of five seconds: what the feedback rule judges by.
CREATE TABLE provider_outcome (
    provider_id text NOT NULL,
    since       timestamptz NOT NULL,
    requests    bigint NOT NULL,
    failures    bigint NOT NULL,
    PRIMARY KEY (provider_id, since)
);
CREATE INDEX provider_outcome_since ON provider_outcome (since);

ALTER TABLE endpoint_health ADD COLUMN settles_at timestamptz;
COMMENT ON COLUMN endpoint_health.settles_at IS 'When its windows change though nobody reports; NULL: they are empty.';
CREATE INDEX endpoint_health_settles ON endpoint_health (settles_at) WHERE settles_at IS NOT NULL;
UPDATE endpoint_health SET state = state - 'ttfts_s' - 'latencies_s' - 'tokens_per_s' - 'outcomes';
