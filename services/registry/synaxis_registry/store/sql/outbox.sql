-- name: lock
-- One registry drains at a time; the lock goes with the transaction, or with the registry.
SELECT pg_try_advisory_xact_lock(hashtextextended('outbox', 0))

-- name: is_empty
SELECT NOT EXISTS (SELECT FROM outbox)

-- name: cursor
SELECT stream_created, stream_sequence, bucket_created, bucket_sequence FROM event_cursor

-- name: save_cursor
INSERT INTO event_cursor (stream_created, stream_sequence, bucket_created, bucket_sequence) VALUES ($1, $2, $3, $4)
ON CONFLICT (is_only) DO UPDATE SET
    stream_created = excluded.stream_created, stream_sequence = excluded.stream_sequence,
    bucket_created = excluded.bucket_created, bucket_sequence = excluded.bucket_sequence

-- name: next
-- The oldest, and those that are known to be in the stream already.
SELECT id, event_id, at, type, data FROM outbox
WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT $1) OR event_id = ANY ($2::uuid[])
ORDER BY id

-- name: delete
DELETE FROM outbox WHERE id = ANY ($1)

-- name: backlog
SELECT count(*) FROM outbox

-- name: keep_alive
-- Between long waits for the bus, so that Postgres does not take the transaction for a forgotten one.
SELECT 1

-- name: states
-- What the bucket must say: the rows as the events published so far tell of them. Where events are still
-- waiting, that is the state before the first of them. One statement, so that both come from one snapshot.
WITH waiting AS (
    SELECT DISTINCT ON (data ->> 'provider_id', data ->> 'provider_model_id')
        data ->> 'provider_id' AS provider_id, data ->> 'provider_model_id' AS provider_model_id, data -> 'before' AS before
    FROM outbox WHERE type LIKE 'model.%'
    ORDER BY data ->> 'provider_id', data ->> 'provider_model_id', id
)
SELECT row.record, waiting.provider_id IS NOT NULL AS is_waiting, waiting.before
FROM provider_model row
JOIN provider ON provider.provider_id = row.provider_id
LEFT JOIN waiting ON waiting.provider_id = row.provider_id AND waiting.provider_model_id = row.provider_model_id
WHERE waiting.provider_id IS NOT NULL
   OR row.is_available OR (provider.is_on AND row.record ->> 'retired_at' IS NULL)
ORDER BY row.provider_id, row.provider_model_id
