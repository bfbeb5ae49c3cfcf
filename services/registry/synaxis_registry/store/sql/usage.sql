-- name: plan_each_time
-- Which indexes serve depends on which filters are set, so a plan for all of them would be bad for each. And
-- compiling takes longer than these queries.
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('jit', 'off', true)

-- name: sums
-- Groups by those of the six fields that $1 names; the others are null. The filters are $2 to $5. The days are
-- those from $6 up to but not including $7, null being no bound. Then come two spans of hours and two spans of
-- lines of the ledger, each with its beginning, its end and its sign: what is subtracted carries negative numbers.
-- They stand one by one, and not in arrays, so that the planner sees how short they are.
WITH part AS (
    SELECT tenant_id, global_model_id, provider_id, key_id, day, NULL::timestamptz AS hour, requests, input_tokens,
           output_tokens, cost_usd, requests_without_price, requests_estimated
      FROM usage_day
     WHERE day >= coalesce($6::date, '-infinity') AND day < coalesce($7::date, 'infinity')
       AND ($2::text IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR global_model_id = $3)
       AND ($4::text IS NULL OR provider_id = $4) AND ($5::text IS NULL OR key_id = $5)
    UNION ALL
    SELECT tenant_id, global_model_id, provider_id, key_id, (hour AT TIME ZONE 'UTC')::date, hour, sign * requests,
           sign * input_tokens, sign * output_tokens, sign * cost_usd, sign * requests_without_price,
           sign * requests_estimated
      FROM usage_hour, LATERAL (SELECT CASE WHEN hour >= $8 AND hour < $9 THEN $10::integer ELSE $13::integer END) s (sign)
     WHERE (hour >= $8::timestamptz AND hour < $9::timestamptz OR hour >= $11::timestamptz AND hour < $12::timestamptz)
       AND ($2::text IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR global_model_id = $3)
       AND ($4::text IS NULL OR provider_id = $4) AND ($5::text IS NULL OR key_id = $5)
    UNION ALL
    SELECT tenant_id, global_model_id, coalesce(provider_id, ''), key_id, (started_at AT TIME ZONE 'UTC')::date,
           date_trunc('hour', started_at, 'UTC'), sign, sign * input_tokens, sign * output_tokens,
           sign * coalesce(cost_usd, 0), sign * (cost_usd IS NULL)::integer, sign * is_estimated::integer
      FROM usage_ledger,
           LATERAL (SELECT CASE WHEN started_at >= $14 AND started_at < $15 THEN $16::integer ELSE $19::integer END) s (sign)
     WHERE (started_at >= $14::timestamptz AND started_at < $15::timestamptz
            OR started_at >= $17::timestamptz AND started_at < $18::timestamptz)
       AND ($2::text IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR global_model_id = $3)
       AND ($4::text IS NULL OR coalesce(provider_id, '') = $4) AND ($5::text IS NULL OR key_id = $5)
)
SELECT CASE WHEN 'tenant' = ANY ($1::text[]) THEN tenant_id END AS tenant,
       CASE WHEN 'model' = ANY ($1::text[]) THEN global_model_id END AS model,
       CASE WHEN 'provider' = ANY ($1::text[]) THEN nullif(provider_id, '') END AS provider,
       CASE WHEN 'key' = ANY ($1::text[]) THEN key_id END AS key,
       CASE WHEN 'day' = ANY ($1::text[]) THEN day END AS day,
       CASE WHEN 'hour' = ANY ($1::text[]) THEN hour END AS hour,
       sum(requests)::bigint AS requests, sum(input_tokens)::bigint AS input_tokens,
       sum(output_tokens)::bigint AS output_tokens, sum(cost_usd) AS cost_usd,
       sum(requests_without_price)::bigint AS requests_without_price,
       sum(requests_estimated)::bigint AS requests_estimated
  FROM part GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(requests) <> 0 ORDER BY 1, 2, 3, 4, 5, 6 LIMIT $20
