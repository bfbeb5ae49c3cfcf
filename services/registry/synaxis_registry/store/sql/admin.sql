-- name: providers
SELECT p.record, p.next_poll_at, count(m.*) AS models, count(m.*) FILTER (WHERE m.is_available) AS available
FROM provider p LEFT JOIN provider_model m USING (provider_id)
WHERE p.provider_id > $1 AND p.record ->> 'retired_at' IS NULL
GROUP BY p.provider_id ORDER BY p.provider_id LIMIT $2

-- name: provider
SELECT p.record, p.next_poll_at, count(m.*) AS models, count(m.*) FILTER (WHERE m.is_available) AS available
FROM provider p LEFT JOIN provider_model m USING (provider_id)
WHERE p.provider_id = $1 AND p.record ->> 'retired_at' IS NULL
GROUP BY p.provider_id

-- name: models
SELECT g.record, count(m.*) AS endpoints, count(m.*) FILTER (WHERE m.is_available) AS available
FROM (SELECT * FROM global_model WHERE id > $1 ORDER BY id LIMIT $2) g
LEFT JOIN provider_model m ON m.global_model_id = g.id
GROUP BY g.id, g.record ORDER BY g.id

-- name: model
SELECT g.record, count(m.*) AS endpoints, count(m.*) FILTER (WHERE m.is_available) AS available
FROM global_model g LEFT JOIN provider_model m ON m.global_model_id = g.id
WHERE g.id = $1 GROUP BY g.id, g.record

-- name: provider_models
SELECT m.record, p.record AS provider FROM provider_model m JOIN provider p USING (provider_id)
WHERE ($1::text IS NULL OR m.provider_id = $1) AND ($2::text IS NULL OR m.global_model_id = $2)
  AND ($3::boolean IS NULL OR m.is_available = $3) AND (m.provider_id, m.provider_model_id) > ($4, $5)
ORDER BY m.provider_id, m.provider_model_id LIMIT $6

-- name: unsure
-- In the order of the resolver's confidence, the least sure first. An operator's word is not unsure.
SELECT m.record, p.record AS provider FROM provider_model m JOIN provider p USING (provider_id)
WHERE ($1::text IS NULL OR m.provider_id = $1) AND m.resolved_by <> 'pin'
  AND ((m.record ->> 'resolution_confidence')::numeric, m.provider_id, m.provider_model_id) > ($2, $3, $4)
ORDER BY (m.record ->> 'resolution_confidence')::numeric, m.provider_id, m.provider_model_id LIMIT $5

-- name: providers_of_model
SELECT DISTINCT provider_id FROM provider_model WHERE global_model_id = $1 ORDER BY provider_id

-- name: dead_letters
-- Newest first; of each payload only its beginning, and how long it is.
SELECT id, stream, subject, sequence, reason, at, octet_length(payload) AS size, substring(payload FROM 1 FOR $4) AS payload
FROM dead_letter WHERE ($1::text IS NULL OR stream = $1) AND ($2::bigint IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3

-- name: dead_letter
SELECT id, stream, subject, sequence, at, payload FROM dead_letter WHERE id = $1

-- name: delete_dead_letter
DELETE FROM dead_letter WHERE id = $1 RETURNING id

-- name: count_dead_letters
SELECT stream, count(*) AS letters FROM dead_letter GROUP BY stream
