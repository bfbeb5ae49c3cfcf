-- name: create_tenant
-- A tenant that was deleted keeps its id for ever: its ledger is under it.
INSERT INTO tenant (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING
RETURNING id, name, created_at

-- name: tenant
SELECT id, name, created_at FROM tenant WHERE id = $1 AND deleted_at IS NULL

-- name: tenant_to_change
-- Whoever deletes the tenant waits, so that nothing can be added to a tenant that is gone.
SELECT id, name, created_at FROM tenant WHERE id = $1 AND deleted_at IS NULL FOR SHARE

-- name: tenants
SELECT id, name, created_at FROM tenant WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2

-- name: delete_tenant
UPDATE tenant SET deleted_at = clock_timestamp() WHERE id = $1 AND deleted_at IS NULL RETURNING id

-- name: revoke_keys
UPDATE api_key SET revoked_at = clock_timestamp() WHERE tenant_id = $1 AND revoked_at IS NULL

-- name: create_key
-- No row: the id is another key's. The same key may come twice, when an answer was lost.
INSERT INTO api_key AS k (key_id, tenant_id, name, key_hash) VALUES ($1, $2, $3, $4)
ON CONFLICT (key_id) DO UPDATE SET name = excluded.name
WHERE k.tenant_id = excluded.tenant_id AND k.key_hash = excluded.key_hash AND k.revoked_at IS NULL
RETURNING key_id, name, created_at

-- name: keys
SELECT key_id, name, created_at FROM api_key
WHERE tenant_id = $1 AND revoked_at IS NULL AND key_id > $2 ORDER BY key_id LIMIT $3

-- name: revoke_key
UPDATE api_key SET revoked_at = clock_timestamp()
WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL RETURNING key_id

-- name: limits
SELECT l.global_model_id, l.allowed_rpm, l.allowed_tpm, l.monthly_budget_usd, l.allowed,
       coalesce(w.requests, 0)::bigint AS used_requests, coalesce(w.tokens, 0)::bigint AS used_tokens,
       coalesce(g.spent, 0) AS spent_usd, coalesce(g.reserved, 0) AS reserved_usd
FROM tenant_model_limit l
LEFT JOIN LATERAL (
    SELECT sum(b.requests) AS requests, sum(b.tokens) AS tokens FROM rate_bucket b
    WHERE b.tenant_id = l.tenant_id AND b.global_model_id = l.global_model_id
      AND b.second > floor(extract(epoch FROM clock_timestamp())) - 61
) w ON true
LEFT JOIN budget g ON g.tenant_id = l.tenant_id AND g.global_model_id = l.global_model_id
    AND g.month = date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date
WHERE l.tenant_id = $1 AND l.deleted_at IS NULL AND l.global_model_id > $2
ORDER BY l.global_model_id LIMIT $3

-- name: save_limit
INSERT INTO tenant_model_limit (tenant_id, global_model_id, allowed_rpm, allowed_tpm, monthly_budget_usd, allowed)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant_id, global_model_id) DO UPDATE
SET allowed_rpm = excluded.allowed_rpm, allowed_tpm = excluded.allowed_tpm,
    monthly_budget_usd = excluded.monthly_budget_usd, allowed = excluded.allowed, deleted_at = NULL

-- name: delete_limit
UPDATE tenant_model_limit SET deleted_at = clock_timestamp()
WHERE tenant_id = $1 AND global_model_id = $2 AND deleted_at IS NULL RETURNING global_model_id
