-- Leases that wait for the same limits are booked in one transaction, in their order and each as if it were alone:
-- that takes one round trip, one commit and one wait for the locks of its scopes instead of one for each. They all
-- have the same scopes, so that rows are locked in the order in which everybody takes them. `place` is an ask's
-- number, from 1; one without any limit has no row.
--
-- Statements on arrays of scopes are otherwise planned anew at each call, which takes half of its time. A plan that
-- is kept was perhaps made when tables were tiny, so it must not read a whole one.
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
BEGIN
    FOR i IN 1 .. cardinality(p_leases) LOOP
        RETURN QUERY SELECT i, g.* FROM grant_lease(
            p_leases[i], p_gateways[i], p_tenant, p_scopes, p_permits[i], p_tokens_each[i], p_usd_each[i],
            p_usd_extra[i], p_slots[i], p_ttl_s, p_lapse_s, p_slot_ttl_s, p_share_of_rest, p_share_of_limit,
            p_seqs[i]) g;
    END LOOP;
END $$;
