-- name: all
SELECT * FROM webhook ORDER BY created_at, id

-- name: page
SELECT w.*, (SELECT count(*) FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.status = 'pending') AS pending,
       (SELECT count(*) FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.status = 'failed') AS failed
FROM webhook w WHERE w.id > $1 ORDER BY w.id LIMIT $2

-- name: one
SELECT w.*, (SELECT count(*) FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.status = 'pending') AS pending,
       (SELECT count(*) FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.status = 'failed') AS failed
FROM webhook w WHERE w.id = $1

-- name: save
INSERT INTO webhook (id, url, events, providers, models, allow_private, enabled, off_reason, version, rotated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (id) DO UPDATE SET
    url = excluded.url, events = excluded.events, providers = excluded.providers, models = excluded.models,
    allow_private = excluded.allow_private, enabled = excluded.enabled, off_reason = excluded.off_reason,
    version = excluded.version, rotated_at = excluded.rotated_at

-- name: lock
SELECT * FROM webhook WHERE id = $1 FOR UPDATE

-- name: delete
DELETE FROM webhook WHERE id = $1 RETURNING id

-- name: switch_off
UPDATE webhook SET enabled = false, off_reason = $2 WHERE id = $1 AND enabled RETURNING id

-- name: enqueue
INSERT INTO webhook_delivery (webhook_id, event_id, type, body)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[])
ON CONFLICT (webhook_id, event_id) DO NOTHING

-- name: claim
-- What is claimed comes up again when nothing is heard of it, so that no registry takes a delivery to its grave.
UPDATE webhook_delivery d
SET attempts = attempts + 1, last_attempt_at = clock_timestamp(),
    next_at = clock_timestamp() + make_interval(secs => $3)
FROM webhook w
WHERE w.id = d.webhook_id AND d.id IN (
    SELECT due.id
    FROM webhook w
    CROSS JOIN LATERAL (
        SELECT id FROM webhook_delivery
        WHERE webhook_id = w.id AND status = 'pending' AND next_at <= clock_timestamp()
        ORDER BY next_at, id LIMIT $2 FOR UPDATE SKIP LOCKED) due
    WHERE w.enabled AND w.id <> ALL ($1::text[]))
RETURNING d.id, d.event_id, d.body, d.attempts, d.webhook_id, w.url, w.allow_private, w.version, w.rotated_at

-- name: settle
UPDATE webhook_delivery SET status = $3, next_at = $4, last_status = $5, last_error = $6
WHERE id = $1 AND attempts = $2

-- name: deliveries
SELECT id, event_id, type, status, attempts, created_at, last_attempt_at, next_at, last_status, last_error
FROM webhook_delivery
WHERE webhook_id = $1 AND ($2::bigint IS NULL OR id < $2) AND ($3::text IS NULL OR status = $3)
ORDER BY id DESC LIMIT $4

-- name: replay
UPDATE webhook_delivery SET status = 'pending', attempts = 0, next_at = clock_timestamp()
WHERE webhook_id = $1 AND id = $2 RETURNING id

-- name: replay_since
WITH again AS (
    UPDATE webhook_delivery SET status = 'pending', attempts = 0, next_at = clock_timestamp()
    WHERE webhook_id = $1 AND created_at >= $2 RETURNING id)
SELECT count(*) FROM again

-- name: waiting
SELECT count(*) FROM webhook_delivery d JOIN webhook w ON w.id = d.webhook_id WHERE w.enabled AND d.status = 'pending'

-- name: forget
DELETE FROM webhook_delivery WHERE status <> 'pending' AND created_at < clock_timestamp() - interval '7 days'
