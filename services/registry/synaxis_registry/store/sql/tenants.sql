-- name: create_tenant
-- A tenant that was deleted keeps its id for ever: its ledger is under it.
INSERT INTO tenant (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING
RETURNING id, name, hedge, created_at

-- name: tenant
SELECT id, name, hedge, created_at FROM tenant WHERE id = $1 AND deleted_at IS NULL

-- name: tenant_to_change
-- Whoever deletes the tenant waits, so that nothing can be added to a tenant that is gone.
SELECT id, name, hedge, created_at FROM tenant WHERE id = $1 AND deleted_at IS NULL FOR SHARE

-- name: tenants
SELECT id, name, hedge, created_at FROM tenant WHERE deleted_at IS NULL AND id > $1 ORDER BY id LIMIT $2

-- name: patch_tenant
UPDATE tenant SET name = coalesce($2, name), hedge = coalesce($3, hedge) WHERE id = $1 AND deleted_at IS NULL
RETURNING id, name, hedge, created_at

-- name: touch_keys
-- Snapshots read what a tenant wants along with its keys.
UPDATE api_key SET tenant_id = tenant_id WHERE tenant_id = $1 AND revoked_at IS NULL

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
SELECT k.key_id, k.name, k.created_at, l.key_id IS NOT NULL AS is_limited
FROM api_key k LEFT JOIN key_limit l ON l.key_id = k.key_id AND l.deleted_at IS NULL
WHERE k.tenant_id = $1 AND k.revoked_at IS NULL AND k.key_id > $2 ORDER BY k.key_id LIMIT $3

-- name: key_to_change
-- Whoever revokes the key waits.
SELECT key_id FROM api_key WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL FOR SHARE

-- name: revoke_key
UPDATE api_key SET revoked_at = clock_timestamp()
WHERE tenant_id = $1 AND key_id = $2 AND revoked_at IS NULL RETURNING key_id

-- name: limits
SELECT scope, global_model_id, allowed_rpm, allowed_tpm, allowed_concurrency, monthly_budget_usd, allowed
FROM tenant_model_limit
WHERE tenant_id = $1 AND deleted_at IS NULL AND global_model_id > $2 ORDER BY global_model_id LIMIT $3

-- name: save_limit
INSERT INTO tenant_model_limit (tenant_id, global_model_id, allowed_rpm, allowed_tpm, allowed_concurrency,
                                monthly_budget_usd, allowed)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id, global_model_id) DO UPDATE
SET allowed_rpm = excluded.allowed_rpm, allowed_tpm = excluded.allowed_tpm,
    allowed_concurrency = excluded.allowed_concurrency, monthly_budget_usd = excluded.monthly_budget_usd,
    allowed = excluded.allowed, deleted_at = NULL

-- name: delete_limit
UPDATE tenant_model_limit SET deleted_at = clock_timestamp()
WHERE tenant_id = $1 AND global_model_id = $2 AND deleted_at IS NULL RETURNING global_model_id

-- name: key_limit
-- A key that is there, limited or not.
SELECT 'k/' || k.key_id AS scope, k.key_id, l.key_id IS NOT NULL AS is_limited, l.allowed_rpm, l.allowed_tpm,
       l.allowed_concurrency, l.monthly_budget_usd
FROM api_key k LEFT JOIN key_limit l ON l.key_id = k.key_id AND l.deleted_at IS NULL
WHERE k.tenant_id = $1 AND k.key_id = $2 AND k.revoked_at IS NULL

-- name: save_key_limit
INSERT INTO key_limit (key_id, allowed_rpm, allowed_tpm, allowed_concurrency, monthly_budget_usd)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key_id) DO UPDATE
SET allowed_rpm = excluded.allowed_rpm, allowed_tpm = excluded.allowed_tpm,
    allowed_concurrency = excluded.allowed_concurrency, monthly_budget_usd = excluded.monthly_budget_usd,
    deleted_at = NULL

-- name: delete_key_limit
UPDATE key_limit l SET deleted_at = clock_timestamp() FROM api_key k
WHERE k.key_id = l.key_id AND k.tenant_id = $1 AND k.key_id = $2 AND k.revoked_at IS NULL AND l.deleted_at IS NULL
RETURNING l.key_id

-- name: live_use
-- What is used of scopes now: in the window of 61 s that grants look at, by slots that gateways hold, and of the
-- money of this month.
SELECT s.scope, w.used_requests, w.used_tokens, h.requests_at_once, coalesce(g.spent, 0) AS spent_usd,
       coalesce(g.reserved, 0) AS reserved_usd, coalesce(g.unconfirmed, 0) AS unconfirmed_usd,
       (this_month + interval '1 month') AT TIME ZONE 'UTC' AS budget_resets_at
FROM (SELECT clock_timestamp() AS now_at) c
CROSS JOIN LATERAL (SELECT date_trunc('month', now_at AT TIME ZONE 'UTC') AS this_month) m
CROSS JOIN unnest($1::text[]) s (scope)
CROSS JOIN LATERAL (
    SELECT coalesce(sum(b.requests), 0)::bigint AS used_requests, coalesce(sum(b.tokens), 0)::bigint AS used_tokens
    FROM rate_bucket b WHERE b.scope = s.scope AND b.second > floor(extract(epoch FROM now_at))::bigint - 61
) w
CROSS JOIN LATERAL (
    SELECT coalesce(sum(k.slots), 0)::bigint AS requests_at_once
    FROM slot k WHERE k.scope = s.scope AND k.expires_at > now_at
) h
LEFT JOIN budget g ON g.scope = s.scope AND g.month = this_month::date
