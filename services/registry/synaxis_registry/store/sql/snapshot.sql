-- name: providers
SELECT record FROM provider WHERE changed_xid >= $1::text::xid8

-- name: provider_models
SELECT record FROM provider_model WHERE changed_xid >= $1::text::xid8 OR provider_id = ANY ($2)

-- name: keys
SELECT k.key_id, k.key_hash, k.tenant_id, k.revoked_at, t.hedge
FROM api_key k JOIN tenant t ON t.id = k.tenant_id WHERE k.changed_xid >= $1::text::xid8

-- name: limits
SELECT tenant_id, global_model_id, allowed_rpm, allowed_tpm, allowed_concurrency, monthly_budget_usd, allowed,
       deleted_at
FROM tenant_model_limit WHERE changed_xid >= $1::text::xid8

-- name: key_limits
SELECT l.key_id, l.allowed_rpm, l.allowed_tpm, l.allowed_concurrency, l.monthly_budget_usd, l.deleted_at, k.tenant_id
FROM key_limit l JOIN api_key k USING (key_id) WHERE l.changed_xid >= $1::text::xid8

-- name: health
SELECT provider_id, provider_model_id, state FROM endpoint_health WHERE changed_xid >= $1::text::xid8
