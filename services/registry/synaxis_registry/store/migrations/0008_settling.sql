-- Reports are taken apart once, into rows; what follows from them is computed from those rows, whose columns have
-- types. What is settled is as it was: a report's JSON was read five times, its attempts with it, and its line of
-- the ledger twice more.
CREATE TYPE new_call AS (
    request_id      uuid,
    tenant_id       text,
    key_id          text,
    global_model_id text,
    provider_id     text,
    started_at      timestamptz,
    input_tokens    bigint,
    output_tokens   bigint,
    cost_usd        numeric,
    is_estimated    boolean,
    used_tokens     bigint,
    lease_id        uuid,
    lease_tokens    bigint,
    draws           jsonb
);
COMMENT ON COLUMN new_call.lease_id IS 'The lease that admitted it.';
CREATE TYPE lease_draw AS (lease_id uuid, tenant_id text, permits bigint, tokens bigint, usd numeric);

-- Puts requests into the ledger, the sums and the budgets, each once whatever is delivered again: what a request
-- drew from leases is freed, or what was charged when they lapsed taken back, and its cost is spent in the month
-- in which it was admitted. Its true tokens take the place of the booked ones in its window. Answers the requests
-- that are new. A settlement is never refused: what is dearer than its reservation is an overrun. The same request
-- may stand twice in a batch: its first line counts.
CREATE OR REPLACE FUNCTION record_calls(p_calls jsonb) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    added new_call[];
BEGIN
    WITH said AS MATERIALIZED (
        SELECT DISTINCT ON (c.request_id) c.*
          FROM ROWS FROM (jsonb_to_recordset(p_calls) AS (
                   request_id uuid, tenant_id text, key_id text, global_model_id text, provider_id text,
                   provider_model_id text, operation text, stream boolean, outcome text, http_status integer,
                   started_at timestamptz, latency_s double precision, ttft_s double precision,
                   input_tokens bigint, output_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint,
                   reasoning_tokens bigint, cost_usd numeric, is_estimated boolean, attempts jsonb,
                   reserved_usd numeric, gateway_id text, used_tokens bigint, draws jsonb)) WITH ORDINALITY c
         ORDER BY c.request_id, c.ordinality
    ), inserted AS (
        INSERT INTO usage_ledger (
            request_id, tenant_id, key_id, global_model_id, provider_id, provider_model_id, operation, stream,
            outcome, http_status, started_at, latency_s, ttft_s, input_tokens, output_tokens, cache_read_tokens,
            cache_write_tokens, reasoning_tokens, cost_usd, is_estimated, attempts, reserved_usd, gateway_id)
        SELECT request_id, tenant_id, key_id, global_model_id, provider_id, provider_model_id, operation, stream,
            outcome, http_status, started_at, latency_s, ttft_s, input_tokens, output_tokens, cache_read_tokens,
            cache_write_tokens, reasoning_tokens, cost_usd, is_estimated, attempts, reserved_usd, gateway_id
          FROM said ORDER BY request_id
        ON CONFLICT (request_id) DO NOTHING
        RETURNING request_id
    )
    SELECT array_agg(ROW(s.request_id, s.tenant_id, s.key_id, s.global_model_id, s.provider_id, s.started_at,
                      s.input_tokens, s.output_tokens, s.cost_usd, s.is_estimated, s.used_tokens,
                      (s.draws -> 0 ->> 'lease_id')::uuid, (s.draws -> 0 ->> 'tokens')::bigint, s.draws)::new_call)
      INTO added FROM inserted i JOIN said s USING (request_id);
    IF added IS NULL THEN
        RETURN;
    END IF;
    PERFORM add_to_sums(added);
    PERFORM settle_draws(added);
    RETURN QUERY SELECT c.request_id FROM unnest(added) c;
END $$;

DROP FUNCTION settle_draws(uuid[], jsonb);
DROP FUNCTION add_to_sums(uuid[]);

CREATE FUNCTION add_to_sums(p_calls new_call[]) RETURNS void LANGUAGE sql AS $$
    WITH by_hour AS MATERIALIZED (
        SELECT date_trunc('hour', c.started_at, 'UTC') AS hour, c.tenant_id, c.key_id, c.global_model_id,
               coalesce(c.provider_id, '') AS provider_id, count(*) AS requests,
               sum(c.input_tokens)::bigint AS input_tokens, sum(c.output_tokens)::bigint AS output_tokens,
               coalesce(sum(c.cost_usd), 0) AS cost_usd,
               count(*) FILTER (WHERE c.cost_usd IS NULL) AS requests_without_price,
               count(*) FILTER (WHERE c.is_estimated) AS requests_estimated
          FROM unnest(p_calls) c GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ), hours AS (
        INSERT INTO usage_hour AS u SELECT * FROM by_hour
        ON CONFLICT (hour, tenant_id, key_id, global_model_id, provider_id) DO UPDATE
        SET requests = u.requests + excluded.requests, input_tokens = u.input_tokens + excluded.input_tokens,
            output_tokens = u.output_tokens + excluded.output_tokens, cost_usd = u.cost_usd + excluded.cost_usd,
            requests_without_price = u.requests_without_price + excluded.requests_without_price,
            requests_estimated = u.requests_estimated + excluded.requests_estimated
        RETURNING 1
    )
    INSERT INTO usage_day AS u
    SELECT (hour AT TIME ZONE 'UTC')::date, tenant_id, key_id, global_model_id, provider_id,
           sum(requests), sum(input_tokens), sum(output_tokens), sum(cost_usd), sum(requests_without_price),
           sum(requests_estimated)
      FROM by_hour, (SELECT count(*) FROM hours) first -- in one order everywhere, so that nobody deadlocks
     GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (day, tenant_id, key_id, global_model_id, provider_id) DO UPDATE
    SET requests = u.requests + excluded.requests, input_tokens = u.input_tokens + excluded.input_tokens,
        output_tokens = u.output_tokens + excluded.output_tokens, cost_usd = u.cost_usd + excluded.cost_usd,
        requests_without_price = u.requests_without_price + excluded.requests_without_price,
        requests_estimated = u.requests_estimated + excluded.requests_estimated;
$$;

CREATE FUNCTION settle_draws(p_calls new_call[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    changes budget_change[];
    drawn lease_draw[];
    freed record;
BEGIN
    -- What was drawn, by lease; nobody draws from a lease of another tenant.
    drawn := ARRAY(
        SELECT (d.lease_id, c.tenant_id, sum(d.permits), sum(d.tokens), sum(d.usd))::lease_draw
          FROM unnest(p_calls) c, jsonb_to_recordset(c.draws) d (lease_id uuid, permits bigint, tokens bigint, usd numeric)
         GROUP BY d.lease_id, c.tenant_id);
    PERFORM 1 FROM lease l
      WHERE l.lease_id IN (SELECT d.lease_id FROM unnest(drawn) d) ORDER BY l.lease_id FOR UPDATE;
    -- What requests cost, in the month of the lease that admitted them.
    changes := ARRAY(
        SELECT (s.scope, m.month, sum(c.cost_usd), 0, 0)::budget_change
          FROM unnest(p_calls) c
          LEFT JOIN lease l ON l.lease_id = c.lease_id AND l.tenant_id = c.tenant_id,
               LATERAL (SELECT coalesce(l.month, date_trunc('month', least(c.started_at, clock_timestamp())
                                                            AT TIME ZONE 'UTC')::date)) m (month),
               LATERAL unnest(ARRAY['t/' || c.tenant_id || '/*', 't/' || c.tenant_id || '/' || c.global_model_id,
                                    'k/' || c.key_id]) s (scope)
         WHERE c.cost_usd > 0
         GROUP BY s.scope, m.month);
    -- What the leases had reserved for them, or were charged for.
    FOR freed IN
        SELECT l.lease_id, l.scopes, l.month, least(d.usd, l.usd) AS usd,
               least(d.usd - least(d.usd, l.usd), l.charged) AS uncharged,
               least(d.permits, l.permits) AS permits, least(d.tokens, l.tokens) AS tokens
          FROM unnest(drawn) d JOIN lease l ON l.lease_id = d.lease_id AND l.tenant_id = d.tenant_id
         ORDER BY l.lease_id
    LOOP
        UPDATE lease SET usd = usd - freed.usd, charged = charged - freed.uncharged,
               permits = permits - freed.permits, tokens = tokens - freed.tokens
         WHERE lease_id = freed.lease_id;
        changes := changes || ARRAY(
            SELECT (s, freed.month, -freed.uncharged, -freed.usd, -freed.uncharged)::budget_change
              FROM unnest(freed.scopes) s WHERE freed.usd > 0 OR freed.uncharged > 0);
    END LOOP;
    -- The true tokens instead of the booked ones, as long as a window sees them.
    PERFORM 1 FROM rate_bucket b
      WHERE (b.scope, b.second) IN (
            SELECT s, l.second FROM unnest(p_calls) c JOIN lease l ON l.lease_id = c.lease_id, unnest(l.scopes) s)
      ORDER BY b.scope, b.second FOR UPDATE;
    UPDATE rate_bucket b SET tokens = greatest(0, b.tokens + t.more)
      FROM (SELECT s.scope, l.second, sum(c.used_tokens - c.lease_tokens) AS more
              FROM unnest(p_calls) c JOIN lease l ON l.lease_id = c.lease_id AND l.tenant_id = c.tenant_id,
                   unnest(l.scopes) s (scope)
             GROUP BY 1, 2) t
     WHERE b.scope = t.scope AND b.second = t.second;
    PERFORM change_budgets(changes);
END $$;
