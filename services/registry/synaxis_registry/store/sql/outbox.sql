-- name: lock
-- One registry drains at a time; the lock goes with the transaction, or with the registry.
SELECT pg_try_advisory_xact_lock(hashtextextended('outbox', 0))

-- name: next
SELECT id, event_id, at, type, data FROM outbox ORDER BY id LIMIT $1

-- name: delete
DELETE FROM outbox WHERE id = ANY ($1)

-- name: backlog
SELECT count(*) FROM outbox
