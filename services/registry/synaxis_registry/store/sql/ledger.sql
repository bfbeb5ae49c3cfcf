-- name: grant_leases
SELECT * FROM grant_leases($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- name: return_lease
SELECT return_lease($1, $2, $3, $4, $5, $6)

-- name: renew_slots
SELECT * FROM renew_slots($1, $2, $3, $4)

-- name: lapse_leases
SELECT * FROM lapse_leases($1, $2)

-- name: record_calls
SELECT record_calls($1)

-- name: make_ledger_partitions
SELECT make_ledger_partitions($1)

-- name: forget_buckets
DELETE FROM rate_bucket WHERE second < floor(extract(epoch FROM clock_timestamp())) - 120

-- name: forget_leases
-- A late report may come for as long as the stream of reports keeps it.
DELETE FROM lease WHERE granted_at < clock_timestamp() - interval '8 days' AND usd = 0

-- name: forget_slots
DELETE FROM slot WHERE expires_at < clock_timestamp() - interval '1 hour'

-- name: forget_gateways
DELETE FROM gateway WHERE seen_at < clock_timestamp() - interval '8 days'

-- name: begin_health
-- What is not there cannot be locked, and of two who begin at once one would be lost.
INSERT INTO endpoint_health (provider_id, provider_model_id, state)
SELECT provider_id, provider_model_id, $3::jsonb FROM unnest($1::text[], $2::text[]) k (provider_id, provider_model_id)
ORDER BY provider_id, provider_model_id
ON CONFLICT DO NOTHING

-- name: health_for_update
SELECT provider_id, provider_model_id, state FROM endpoint_health
WHERE (provider_id, provider_model_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY provider_id, provider_model_id FOR UPDATE

-- name: save_measured
-- All that a batch of attempts changes, in one round trip. The rows of `endpoint_health` are locked, so nobody else
-- writes their windows.
WITH states AS (
    UPDATE endpoint_health h SET state = k.state::jsonb, settles_at = least(h.settles_at, $4::timestamptz)
    FROM unnest($1::text[], $2::text[], $3::text[]) k (provider_id, provider_model_id, state)
    WHERE h.provider_id = k.provider_id AND h.provider_model_id = k.provider_model_id
), windows AS (
    INSERT INTO endpoint_window
    SELECT * FROM unnest($5::text[], $6::text[], $7::integer[], $8::timestamptz[], $9::bigint[], $10::bigint[],
                         $11::bytea[], $12::bytea[], $13::bytea[])
    ON CONFLICT (provider_id, provider_model_id, span_s, since) DO UPDATE SET
        requests = excluded.requests, failures = excluded.failures,
        ttft = excluded.ttft, total = excluded.total, speed = excluded.speed
)
INSERT INTO provider_outcome AS o (provider_id, since, requests, failures)
SELECT provider_id, $17, requests, failures
FROM unnest($14::text[], $15::bigint[], $16::bigint[]) k (provider_id, requests, failures) ORDER BY provider_id
ON CONFLICT (provider_id, since)
DO UPDATE SET requests = o.requests + excluded.requests, failures = o.failures + excluded.failures

-- name: unsettled_health
-- Who settles waits for nobody, so that it is in no deadlock with those who report.
SELECT provider_id, provider_model_id, state FROM endpoint_health
WHERE settles_at <= $1 ORDER BY settles_at LIMIT $2 FOR UPDATE SKIP LOCKED

-- name: settle_health
UPDATE endpoint_health h SET state = k.state::jsonb, settles_at = k.settles_at
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) k (provider_id, provider_model_id, state, settles_at)
WHERE h.provider_id = k.provider_id AND h.provider_model_id = k.provider_model_id

-- name: windows
SELECT w.* FROM unnest($1::text[], $2::text[]) k (provider_id, provider_model_id)
JOIN endpoint_window w USING (provider_id, provider_model_id)
WHERE (w.span_s = 60 AND w.since >= $3) OR (w.span_s = 3600 AND w.since >= $4)

-- name: forget_windows
DELETE FROM endpoint_window
WHERE since < clock_timestamp() - CASE span_s WHEN 60 THEN interval '10 minutes' ELSE interval '26 hours' END

-- name: outcomes
SELECT since, requests, failures FROM provider_outcome WHERE provider_id = $1 AND since >= $2 ORDER BY since

-- name: failing_providers
SELECT provider_id FROM provider_outcome WHERE since >= $1 AND failures > 0 GROUP BY provider_id ORDER BY provider_id

-- name: forget_outcomes
DELETE FROM provider_outcome WHERE since < clock_timestamp() - interval '10 minutes'
