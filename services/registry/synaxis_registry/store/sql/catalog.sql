-- name: lock_provider
-- Serialises all changes of one provider and its models, also of one that has no row yet.
SELECT pg_advisory_xact_lock(hashtextextended('provider:' || $1, 0))

-- name: provider
SELECT record FROM provider WHERE provider_id = $1

-- name: providers
SELECT record FROM provider ORDER BY provider_id

-- name: provider_ids
SELECT provider_id FROM provider ORDER BY provider_id

-- name: provider_models
SELECT record FROM provider_model WHERE provider_id = $1

-- name: save_provider
INSERT INTO provider (provider_id, record, is_on, off_reason, next_poll_at)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (provider_id) DO UPDATE
SET record = excluded.record, is_on = excluded.is_on, off_reason = excluded.off_reason,
    next_poll_at = excluded.next_poll_at

-- name: save_provider_models
INSERT INTO provider_model (provider_id, provider_model_id, record)
SELECT * FROM unnest($1::text[], $2::text[], $3::jsonb[])
ON CONFLICT (provider_id, provider_model_id) DO UPDATE SET record = excluded.record

-- name: save_prices
-- The prices of rows that are new or whose prices have changed, for `price_history`.
INSERT INTO price_history (provider_id, provider_model_id, prices)
SELECT * FROM unnest($1::text[], $2::text[], $3::jsonb[])

-- name: save_models
INSERT INTO global_model (id, record)
SELECT * FROM unnest($1::text[], $2::jsonb[])
ON CONFLICT (id) DO UPDATE SET record = excluded.record
WHERE global_model.record IS DISTINCT FROM excluded.record

-- name: add_models
-- Only those that are not there: another registry may have made them in the meantime.
INSERT INTO global_model (id, record)
SELECT * FROM unnest($1::text[], $2::jsonb[])
ON CONFLICT (id) DO NOTHING

-- name: models
SELECT record FROM global_model ORDER BY id

-- name: horizon
-- Every transaction with a smaller id has ended; what a later one wrote is read again next time.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text

-- name: models_since
SELECT record FROM global_model WHERE changed_xid >= $1::text::xid8

-- name: model
SELECT record FROM global_model WHERE id = $1

-- name: model_for_update
SELECT record FROM global_model WHERE id = $1 FOR UPDATE

-- name: source
SELECT value, observed_at FROM catalog_source WHERE name = $1

-- name: sources_named
SELECT value, observed_at FROM catalog_source WHERE name = ANY ($1)

-- name: sources
SELECT name, value FROM catalog_source

-- name: save_source
INSERT INTO catalog_source AS s (name, value, observed_at) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET value = excluded.value, observed_at = excluded.observed_at
WHERE s.observed_at <= excluded.observed_at

-- name: forget_sources
DELETE FROM catalog_source WHERE name = ANY ($1)

-- name: due_providers
-- Takes the providers whose poll is due; each is taken by one registry only. A poll that brings no observation
-- is asked for again after a minute.
UPDATE provider SET next_poll_at = clock_timestamp() + interval '60 seconds'
WHERE provider_id IN (
    SELECT provider_id FROM provider
    WHERE next_poll_at <= clock_timestamp() AND is_on
    ORDER BY next_poll_at LIMIT 50 FOR UPDATE SKIP LOCKED
)
RETURNING record

-- name: key_variables
SELECT name, is_set FROM key_variable

-- name: save_key_variables
INSERT INTO key_variable AS k (name, is_set)
SELECT * FROM unnest($1::text[], $2::boolean[])
ON CONFLICT (name) DO UPDATE SET is_set = excluded.is_set, told_at = clock_timestamp()
WHERE k.is_set <> excluded.is_set

-- name: add_event
INSERT INTO outbox (event_id, type, data) VALUES ($1, $2, $3)

-- name: provider_model
SELECT m.record, p.record AS provider FROM provider_model m JOIN provider p USING (provider_id)
WHERE m.provider_id = $1 AND m.provider_model_id = $2

-- name: add_dead_letter
INSERT INTO dead_letter (stream, sequence, subject, payload, reason) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
