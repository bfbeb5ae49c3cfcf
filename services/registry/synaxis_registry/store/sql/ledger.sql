-- name: grant_lease
SELECT * FROM grant_lease($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

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

-- name: save_health
UPDATE endpoint_health h SET state = k.state::jsonb
FROM unnest($1::text[], $2::text[], $3::text[]) k (provider_id, provider_model_id, state)
WHERE h.provider_id = k.provider_id AND h.provider_model_id = k.provider_model_id
