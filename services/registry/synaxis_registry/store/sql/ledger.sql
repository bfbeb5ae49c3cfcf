-- name: grant_permit
SELECT * FROM grant_permit($1, $2, $3, $4, $5, $6, $7)

-- name: end_permit
SELECT end_permit($1, $2)

-- name: settle_call
SELECT settle_call($1, $2, $3, $4, $5)

-- name: lapsed_permits
-- Held by a gateway that never reported: charged at their worst case until a late report says better.
SELECT request_id FROM permit
WHERE state = 'held' AND expires_at < clock_timestamp() ORDER BY request_id LIMIT 500

-- name: forget_buckets
DELETE FROM rate_bucket WHERE second < floor(extract(epoch FROM clock_timestamp())) - 120

-- name: forget_permits
DELETE FROM permit WHERE state <> 'held' AND expires_at < clock_timestamp() - interval '8 days'

-- name: add_call
INSERT INTO usage_ledger (
    request_id, tenant_id, key_id, global_model_id, provider_id, provider_model_id, operation, stream, outcome,
    http_status, started_at, latency_s, ttft_s, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
    reasoning_tokens, cost_usd, is_estimated, attempts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
ON CONFLICT (request_id) DO NOTHING
RETURNING request_id

-- name: health_for_update
SELECT state FROM endpoint_health WHERE provider_id = $1 AND provider_model_id = $2 FOR UPDATE

-- name: save_health
INSERT INTO endpoint_health (provider_id, provider_model_id, state) VALUES ($1, $2, $3)
ON CONFLICT (provider_id, provider_model_id) DO UPDATE SET state = excluded.state

-- name: usage
-- Groups by those of the five fields that $6 names; the others are null.
SELECT CASE WHEN 'tenant' = ANY ($6::text[]) THEN tenant_id END AS tenant,
       CASE WHEN 'model' = ANY ($6::text[]) THEN global_model_id END AS model,
       CASE WHEN 'provider' = ANY ($6::text[]) THEN provider_id END AS provider,
       CASE WHEN 'key' = ANY ($6::text[]) THEN key_id END AS key,
       CASE WHEN 'day' = ANY ($6::text[]) THEN (started_at AT TIME ZONE 'UTC')::date END AS day,
       count(*) AS requests,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
       coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(cost_usd), 0) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL) AS requests_without_price,
       count(*) FILTER (WHERE is_estimated) AS requests_estimated
FROM usage_ledger
WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR global_model_id = $2)
  AND ($3::text IS NULL OR provider_id = $3)
  AND ($4::timestamptz IS NULL OR started_at >= $4) AND ($5::timestamptz IS NULL OR started_at < $5)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
