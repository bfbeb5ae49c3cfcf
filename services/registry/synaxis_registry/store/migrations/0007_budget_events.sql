-- Events of budgets say what was before and after, and that usage is the cause, as all other events do.
CREATE OR REPLACE FUNCTION change_budgets(p_changes budget_change[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    changed record;
    told integer;
    threshold integer;
BEGIN
    INSERT INTO budget (scope, month)
    SELECT DISTINCT c.scope, c.month FROM unnest(p_changes) c ORDER BY 1, 2
    ON CONFLICT DO NOTHING;
    PERFORM 1 FROM budget g
      WHERE (g.scope, g.month) IN (SELECT c.scope, c.month FROM unnest(p_changes) c)
      ORDER BY g.scope, g.month FOR UPDATE;
    UPDATE budget g
       SET spent = g.spent + c.spent, reserved = g.reserved + c.reserved, unconfirmed = g.unconfirmed + c.unconfirmed
      FROM (SELECT u.scope, u.month, sum(u.spent) AS spent, sum(u.reserved) AS reserved,
                   sum(u.unconfirmed) AS unconfirmed FROM unnest(p_changes) u GROUP BY 1, 2) c
     WHERE g.scope = c.scope AND g.month = c.month;
    FOR changed IN
        SELECT g.*, l.monthly_budget_usd AS amount,
               (SELECT sum(c.spent) FROM unnest(p_changes) c WHERE c.scope = g.scope AND c.month = g.month) AS more
          FROM budget g JOIN scope_limit l ON l.scope = g.scope
         WHERE (g.scope, g.month) IN (SELECT c.scope, c.month FROM unnest(p_changes) c WHERE c.spent > 0)
           AND g.month = date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date
           AND l.monthly_budget_usd > 0 AND g.spent * 2 >= l.monthly_budget_usd
         ORDER BY g.scope
    LOOP
        told := CASE WHEN changed.warned_of = changed.amount THEN changed.warned_percent ELSE 0 END;
        FOREACH threshold IN ARRAY ARRAY[50, 80, 95, 100] LOOP
            CONTINUE WHEN threshold <= told OR changed.spent * 100 < changed.amount * threshold;
            UPDATE budget SET warned_percent = threshold, warned_of = changed.amount
             WHERE scope = changed.scope AND month = changed.month;
            INSERT INTO outbox (event_id, type, data)
            SELECT gen_random_uuid(),
                   CASE threshold WHEN 100 THEN 'tenant.budget.exhausted' ELSE 'tenant.budget.threshold' END,
                   jsonb_build_object(
                       'tenant_id', coalesce(k.tenant_id, split_part(changed.scope, '/', 2)),
                       'global_model_id', CASE WHEN k.key_id IS NULL
                           THEN substr(changed.scope, length(split_part(changed.scope, '/', 2)) + 4) ELSE '*' END,
                       'key_id', k.key_id,
                       'spent_usd', trim_scale(changed.spent)::text,
                       'budget_usd', trim_scale(changed.amount)::text,
                       'threshold_percent', threshold,
                       'before', jsonb_build_object(
                           'spent_usd', trim_scale(changed.spent - changed.more)::text, 'threshold_percent', told),
                       'after', jsonb_build_object(
                           'spent_usd', trim_scale(changed.spent)::text, 'threshold_percent', threshold),
                       'cause', jsonb_build_object('kind', 'usage'))
              FROM (SELECT 1) always LEFT JOIN api_key k ON 'k/' || k.key_id = changed.scope;
            told := threshold;
        END LOOP;
    END LOOP;
END $$;
