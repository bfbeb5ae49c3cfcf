-- Books leases that were asked for at the same time, in their order and each as if it were alone, with one wait for
-- the locks of their scopes, one look at their limits and one change of the windows and budgets. They are all of one
-- tenant and on the same scopes. `place` is an ask's number, from 1; one without any limit has no row. Registries of the
-- former release go on calling `grant_lease`, which from here on is a batch of one.
--
-- Statements on arrays of scopes are otherwise planned anew at each call, which takes longer than to run them. A plan
-- that is kept was perhaps made when tables were tiny, so it must not read a whole one.
CREATE FUNCTION grant_leases(
    p_tenant text, p_scopes text[], p_leases uuid[], p_gateways text[], p_permits bigint[], p_tokens_each bigint[],
    p_usd_each numeric[], p_usd_extra numeric[], p_slots jsonb[], p_seqs bigint[], p_ttl_s double precision,
    p_lapse_s double precision, p_slot_ttl_s double precision, p_share_of_rest integer, p_share_of_limit integer
) RETURNS TABLE (
    place integer,
    limit_scope text, verdict text, retry_after_s integer, reset_s integer,
    allowed_rpm bigint, used_requests bigint, allowed_tpm bigint, used_tokens bigint,
    allowed_concurrency integer, slots integer,
    monthly_budget_usd numeric, spent numeric, reserved numeric,
    granted_permits bigint, granted_tokens bigint, granted_usd numeric
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    now_at timestamptz;
    now_s bigint;
    last_s bigint;
    full_s integer; -- until what is booked now is free again
    month_now date;
    before limit_use[];
    booked_requests bigint := 0; -- by those that came before in this call, in every scope
    booked_tokens bigint := 0;
    booked_usd numeric := 0;
    known lease%ROWTYPE;
    is_known boolean;
    permits bigint;
    tokens_needed bigint;
    usd_needed numeric;
    found limit_use[];
    one limit_use;
    room numeric;
    refused boolean;
BEGIN
    PERFORM lock_scopes(p_scopes);
    now_at := clock_timestamp();
    now_s := floor(extract(epoch FROM now_at));
    last_s := floor(extract(epoch FROM now_at) + p_ttl_s);
    full_s := last_s + 61 - now_s;
    month_now := date_trunc('month', now_at AT TIME ZONE 'UTC')::date;
    before := ARRAY(
        SELECT ROW(l.scope, NULL, NULL, w.reset_s, l.allowed_rpm, w.requests, l.allowed_tpm, w.tokens,
                   l.allowed_concurrency, NULL, l.monthly_budget_usd, coalesce(m.spent, 0),
                   coalesce(m.reserved, 0))::limit_use
          FROM scope_limit l
          CROSS JOIN LATERAL (
               SELECT coalesce(sum(b.requests), 0)::bigint AS requests, coalesce(sum(b.tokens), 0)::bigint AS tokens,
                      (max(b.second) + 61 - now_s)::integer AS reset_s
                 FROM rate_bucket b WHERE b.scope = l.scope AND b.second > now_s - 61) w
          LEFT JOIN LATERAL (
               SELECT g.spent, g.reserved FROM budget g WHERE g.scope = l.scope AND g.month = month_now LIMIT 1) m
               ON true
         WHERE l.scope = ANY (p_scopes) ORDER BY l.scope);
    IF cardinality(before) = 0 THEN
        RETURN;
    END IF;
    FOR i IN 1 .. cardinality(p_leases) LOOP
        SELECT * INTO known FROM lease l WHERE l.lease_id = p_leases[i];
        is_known := known.lease_id IS NOT NULL;
        permits := p_permits[i];
        tokens_needed := CASE WHEN permits > 0 THEN p_tokens_each[i] ELSE 0 END;
        usd_needed := CASE WHEN permits > 0 THEN p_usd_each[i] ELSE p_usd_extra[i] END;
        found := '{}';
        refused := false;
        FOREACH one IN ARRAY before LOOP
            IF booked_requests > 0 THEN
                one.used_requests := one.used_requests + booked_requests;
                one.used_tokens := one.used_tokens + booked_tokens;
                one.reset_s := greatest(one.reset_s, full_s);
            END IF;
            one.reserved := one.reserved + booked_usd;
            IF NOT is_known THEN
                IF permits > 0 AND one.used_requests + 1 > one.allowed_rpm THEN
                    one.verdict := 'rpm';
                    SELECT (min(s.second) + 61 - now_s)::integer INTO one.retry_after_s FROM (
                        SELECT b.second, sum(b.requests) OVER (ORDER BY b.second) AS freed FROM rate_bucket b
                         WHERE b.scope = one.limit_scope AND b.second > now_s - 61) s
                     WHERE s.freed >= one.used_requests + 1 - one.allowed_rpm;
                    IF booked_requests > 0 AND one.allowed_rpm >= 1 THEN
                        one.retry_after_s := least(one.retry_after_s, full_s);
                    END IF;
                ELSIF one.used_tokens + tokens_needed > one.allowed_tpm THEN
                    one.verdict := 'tpm';
                    SELECT (min(s.second) + 61 - now_s)::integer INTO one.retry_after_s FROM (
                        SELECT b.second, sum(b.tokens) OVER (ORDER BY b.second) AS freed FROM rate_bucket b
                         WHERE b.scope = one.limit_scope AND b.second > now_s - 61) s
                     WHERE s.freed >= one.used_tokens + tokens_needed - one.allowed_tpm;
                    IF booked_requests > 0 AND one.allowed_tpm >= tokens_needed THEN
                        one.retry_after_s := least(one.retry_after_s, full_s);
                    END IF;
                ELSIF one.spent + one.reserved + usd_needed > one.monthly_budget_usd THEN
                    one.verdict := 'budget';
                ELSIF permits > 0 AND one.allowed_concurrency IS NOT NULL THEN
                    one.slots := slots_left(one.limit_scope, p_gateways[i], one.allowed_concurrency);
                    IF one.slots < coalesce((p_slots[i] ->> one.limit_scope)::integer, 1) THEN
                        one.verdict := 'concurrency';
                        one.retry_after_s := 1;
                    END IF;
                END IF;
                IF one.verdict IS NULL AND permits > 1 THEN
                    IF one.allowed_rpm IS NOT NULL THEN
                        room := least((one.allowed_rpm - one.used_requests) / p_share_of_rest,
                                      one.allowed_rpm / p_share_of_limit);
                        permits := greatest(1, least(permits, room::bigint));
                    END IF;
                    IF one.allowed_tpm IS NOT NULL AND p_tokens_each[i] > 0 THEN
                        room := least((one.allowed_tpm - one.used_tokens) / p_share_of_rest,
                                      one.allowed_tpm / p_share_of_limit);
                        permits := greatest(1, least(permits, floor(room / p_tokens_each[i])::bigint));
                    END IF;
                    IF one.monthly_budget_usd IS NOT NULL AND p_usd_each[i] > 0 THEN
                        room := least((one.monthly_budget_usd - one.spent - one.reserved) / p_share_of_rest,
                                      one.monthly_budget_usd / p_share_of_limit);
                        permits := greatest(1, least(permits, floor(room / p_usd_each[i])::bigint));
                    END IF;
                END IF;
                refused := refused OR one.verdict IS NOT NULL;
            ELSIF known.is_returned OR known.second < now_s THEN
                one.verdict := 'gone';
            ELSIF one.limit_scope = ANY (known.scopes) THEN -- as it was before the booking, which is in the sums already
                one.used_requests := greatest(0, one.used_requests - known.granted_permits);
                one.used_tokens := greatest(0, one.used_tokens - known.granted_tokens);
            END IF;
            found := found || one;
        END LOOP;
        IF NOT is_known AND NOT refused THEN
            known.granted_permits := permits;
            known.granted_tokens := permits * p_tokens_each[i];
            known.granted_usd := CASE WHEN permits > 0 THEN permits * p_usd_each[i] ELSE p_usd_extra[i] END;
            INSERT INTO lease (lease_id, gateway_id, tenant_id, scopes, second, month, granted_permits,
                               granted_tokens, granted_usd, permits, tokens, usd, granted_at, lapses_at)
            VALUES (p_leases[i], p_gateways[i], p_tenant, p_scopes, last_s, month_now, known.granted_permits,
                    known.granted_tokens, known.granted_usd, known.granted_permits, known.granted_tokens,
                    known.granted_usd, now_at, now_at + make_interval(secs => p_lapse_s));
            booked_requests := booked_requests + known.granted_permits;
            booked_tokens := booked_tokens + known.granted_tokens;
            booked_usd := booked_usd + known.granted_usd;
        END IF;
        place := i;
        granted_permits := coalesce(known.granted_permits, 0);
        granted_tokens := coalesce(known.granted_tokens, 0);
        granted_usd := coalesce(known.granted_usd, 0);
        FOREACH one IN ARRAY found LOOP
            IF one.allowed_concurrency IS NOT NULL AND one.verdict IS NULL AND NOT refused AND p_permits[i] > 0 THEN
                one.slots := set_slots(one.limit_scope, p_gateways[i], least(
                    slots_left(one.limit_scope, p_gateways[i], one.allowed_concurrency),
                    coalesce((p_slots[i] ->> one.limit_scope)::integer, 1) + (granted_permits - 1)::integer),
                    p_slot_ttl_s, p_seqs[i]);
            END IF;
            limit_scope := one.limit_scope;
            verdict := one.verdict;
            retry_after_s := one.retry_after_s;
            reset_s := one.reset_s;
            allowed_rpm := one.allowed_rpm;
            used_requests := one.used_requests;
            allowed_tpm := one.allowed_tpm;
            used_tokens := one.used_tokens;
            allowed_concurrency := one.allowed_concurrency;
            slots := one.slots;
            monthly_budget_usd := one.monthly_budget_usd;
            spent := one.spent;
            reserved := one.reserved;
            RETURN NEXT;
        END LOOP;
    END LOOP;
    -- Rows are locked in the order in which everybody takes them: leases, windows, budgets, each by name.
    IF booked_requests > 0 THEN
        INSERT INTO rate_bucket AS b (scope, second, requests, tokens)
        SELECT s, last_s, booked_requests, booked_tokens FROM unnest(p_scopes) s ORDER BY s
        ON CONFLICT (scope, second)
        DO UPDATE SET requests = b.requests + excluded.requests, tokens = b.tokens + excluded.tokens;
    END IF;
    IF booked_usd > 0 THEN
        INSERT INTO budget AS g (scope, month, reserved)
        SELECT s, month_now, booked_usd FROM unnest(p_scopes) s ORDER BY s
        ON CONFLICT (scope, month) DO UPDATE SET reserved = g.reserved + excluded.reserved;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION grant_lease(
    p_lease_id uuid, p_gateway text, p_tenant text, p_scopes text[], p_permits bigint, p_tokens_each bigint,
    p_usd_each numeric, p_usd_extra numeric, p_slots jsonb, p_ttl_s double precision, p_lapse_s double precision,
    p_slot_ttl_s double precision, p_share_of_rest integer, p_share_of_limit integer, p_seq bigint DEFAULT 0
) RETURNS TABLE (
    limit_scope text, verdict text, retry_after_s integer, reset_s integer,
    allowed_rpm bigint, used_requests bigint, allowed_tpm bigint, used_tokens bigint,
    allowed_concurrency integer, slots integer,
    monthly_budget_usd numeric, spent numeric, reserved numeric,
    granted_permits bigint, granted_tokens bigint, granted_usd numeric
) LANGUAGE sql AS $$
    SELECT g.limit_scope, g.verdict, g.retry_after_s, g.reset_s, g.allowed_rpm, g.used_requests, g.allowed_tpm,
           g.used_tokens, g.allowed_concurrency, g.slots, g.monthly_budget_usd, g.spent, g.reserved,
           g.granted_permits, g.granted_tokens, g.granted_usd
      FROM grant_leases(p_tenant, p_scopes, ARRAY[p_lease_id], ARRAY[p_gateway], ARRAY[p_permits],
                        ARRAY[p_tokens_each], ARRAY[p_usd_each], ARRAY[p_usd_extra], ARRAY[p_slots], ARRAY[p_seq],
                        p_ttl_s, p_lapse_s, p_slot_ttl_s, p_share_of_rest, p_share_of_limit) g
$$;
