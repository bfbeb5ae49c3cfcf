-- Leases: many requests are booked at once, against every limit that has a scope. A scope is what a limit is
-- on: `t/<tenant>/*`, `t/<tenant>/<model>`, `k/<key id>`, `p/<provider>` or `e/<provider>/<provider model>`.

ALTER TABLE tenant_model_limit
    ADD COLUMN allowed_concurrency integer CHECK (allowed_concurrency >= 0),
    ADD COLUMN scope text NOT NULL GENERATED ALWAYS AS ('t/' || tenant_id || '/' || global_model_id) STORED;
CREATE UNIQUE INDEX tenant_model_limit_scope ON tenant_model_limit (scope);

CREATE TABLE key_limit (
    key_id              text PRIMARY KEY REFERENCES api_key,
    allowed_rpm         integer CHECK (allowed_rpm >= 0),
    allowed_tpm         bigint CHECK (allowed_tpm >= 0),
    allowed_concurrency integer CHECK (allowed_concurrency >= 0),
    monthly_budget_usd  numeric CHECK (monthly_budget_usd >= 0 AND monthly_budget_usd < 1e12),
    deleted_at          timestamptz,
    changed_xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    scope               text NOT NULL GENERATED ALWAYS AS ('k/' || key_id) STORED
);
CREATE UNIQUE INDEX key_limit_scope ON key_limit (scope);
CREATE INDEX key_limit_changed ON key_limit (changed_xid);
CREATE TRIGGER key_limit_stamp BEFORE UPDATE ON key_limit FOR EACH ROW EXECUTE FUNCTION stamp_change();
CREATE TRIGGER key_limit_tell AFTER INSERT OR UPDATE ON key_limit FOR EACH STATEMENT
    EXECUTE FUNCTION tell('synaxis_tenants');

ALTER TABLE provider
    ADD COLUMN rate_limit_rpm bigint GENERATED ALWAYS AS ((record ->> 'rate_limit_rpm')::bigint) STORED,
    ADD COLUMN rate_limit_tpm bigint GENERATED ALWAYS AS ((record ->> 'rate_limit_tpm')::bigint) STORED,
    ADD COLUMN scope text NOT NULL GENERATED ALWAYS AS ('p/' || provider_id) STORED;
CREATE UNIQUE INDEX provider_scope ON provider (scope);
ALTER TABLE provider_model
    ADD COLUMN rate_limit_rpm bigint GENERATED ALWAYS AS ((record ->> 'rate_limit_rpm')::bigint) STORED,
    ADD COLUMN rate_limit_tpm bigint GENERATED ALWAYS AS ((record ->> 'rate_limit_tpm')::bigint) STORED,
    ADD COLUMN scope text NOT NULL
        GENERATED ALWAYS AS ('e/' || provider_id || '/' || provider_model_id) STORED;
CREATE UNIQUE INDEX provider_model_scope ON provider_model (scope);

CREATE VIEW scope_limit AS
SELECT scope, allowed_rpm::bigint AS allowed_rpm, allowed_tpm, allowed_concurrency, monthly_budget_usd
  FROM tenant_model_limit WHERE deleted_at IS NULL
UNION ALL
SELECT scope, allowed_rpm::bigint, allowed_tpm, allowed_concurrency, monthly_budget_usd
  FROM key_limit WHERE deleted_at IS NULL
UNION ALL
SELECT scope, rate_limit_rpm, rate_limit_tpm, NULL::integer, NULL::numeric FROM provider
UNION ALL
SELECT scope, rate_limit_rpm, rate_limit_tpm, NULL::integer, NULL::numeric FROM provider_model;

DROP FUNCTION grant_permit(uuid, text, text[], bigint, bigint, numeric, integer);
DROP FUNCTION end_permit(uuid, text);
DROP FUNCTION settle_call(uuid, text, text, timestamptz, numeric);
DROP TABLE rate_bucket;

CREATE TABLE rate_bucket (
    scope    text NOT NULL,
    second   bigint NOT NULL,
    requests bigint NOT NULL,
    tokens   bigint NOT NULL,
    PRIMARY KEY (scope, second)
);

ALTER TABLE budget RENAME TO budget_before;
ALTER TABLE budget_before RENAME CONSTRAINT budget_pkey TO budget_before_pkey;
CREATE TABLE budget (
    scope          text NOT NULL,
    month          date NOT NULL,
    spent          numeric NOT NULL DEFAULT 0 CHECK (spent >= 0 AND spent < 1e12),
    reserved       numeric NOT NULL DEFAULT 0 CHECK (reserved >= 0 AND reserved < 1e12),
    unconfirmed    numeric NOT NULL DEFAULT 0 CHECK (unconfirmed >= 0 AND unconfirmed <= spent),
    warned_percent integer NOT NULL DEFAULT 0,
    warned_of      numeric,
    PRIMARY KEY (scope, month)
);
COMMENT ON TABLE budget IS 'What every tenant and key spends in a month (UTC), limited or not: a limit set later finds it here.';
COMMENT ON COLUMN budget.unconfirmed IS 'The part of spent that gateways held and never reported on: their worst case.';
COMMENT ON COLUMN budget.warned_percent IS 'The highest threshold that was told of, while the budget was warned_of.';
-- What was reserved by gateways of the former release is charged: it may be under way.
INSERT INTO budget (scope, month, spent)
SELECT 't/' || tenant_id || '/' || global_model_id, month, spent + reserved FROM budget_before;
DROP TABLE budget_before;
DROP TABLE permit;

CREATE TABLE lease (
    lease_id        uuid PRIMARY KEY,
    gateway_id      text NOT NULL,
    tenant_id       text,
    scopes          text[] NOT NULL,
    second          bigint NOT NULL,
    month           date NOT NULL,
    granted_permits bigint NOT NULL,
    granted_tokens  bigint NOT NULL,
    granted_usd     numeric NOT NULL,
    permits         bigint NOT NULL CHECK (permits >= 0),
    tokens          bigint NOT NULL CHECK (tokens >= 0),
    usd             numeric NOT NULL CHECK (usd >= 0),
    charged         numeric NOT NULL DEFAULT 0 CHECK (charged >= 0),
    is_returned     boolean NOT NULL DEFAULT false,
    granted_at      timestamptz NOT NULL,
    lapses_at       timestamptz NOT NULL
);
CREATE INDEX lease_open ON lease (lapses_at) WHERE usd > 0;
CREATE INDEX lease_of_gateway ON lease (gateway_id) WHERE usd > 0;
CREATE INDEX lease_old ON lease (granted_at);
COMMENT ON COLUMN lease.usd IS 'Reserved and neither returned nor settled by a report.';
COMMENT ON COLUMN lease.charged IS 'Lapsed: in spent as unconfirmed, until a late report or return says better.';

CREATE TABLE gateway (
    gateway_id text PRIMARY KEY,
    seen_at    timestamptz NOT NULL
);

CREATE TABLE slot (
    scope      text NOT NULL,
    gateway_id text NOT NULL,
    slots      integer NOT NULL CHECK (slots >= 0),
    expires_at timestamptz NOT NULL,
    seq        bigint NOT NULL,
    PRIMARY KEY (scope, gateway_id)
);

-- Scopes are locked in one order by everybody, so that grants of a tenant queue up and never deadlock; each
-- statement after this one then sees what those before it in the queue have committed.
CREATE FUNCTION lock_scopes(p_scopes text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    key bigint;
BEGIN
    FOR key IN SELECT DISTINCT hashtextextended(s, 0) AS k FROM unnest(p_scopes) s ORDER BY k LOOP
        PERFORM pg_advisory_xact_lock(key);
    END LOOP;
END $$;

-- How many slots of a scope other gateways leave. The scope must be locked.
CREATE FUNCTION slots_left(p_scope text, p_gateway text, p_allowed integer) RETURNS integer LANGUAGE sql AS $$
    SELECT greatest(0, p_allowed - coalesce(sum(s.slots), 0))::integer FROM slot s
     WHERE s.scope = p_scope AND s.gateway_id <> p_gateway AND s.expires_at > clock_timestamp()
$$;

-- What the gateway holds in the scope from now on; its older word does not count against its newer. Answers what it
-- holds. The scope must be locked.
CREATE FUNCTION set_slots(p_scope text, p_gateway text, p_slots integer, p_ttl_s double precision, p_seq bigint)
RETURNS integer LANGUAGE sql AS $$
    INSERT INTO slot AS s (scope, gateway_id, slots, expires_at, seq)
    VALUES (p_scope, p_gateway, p_slots, clock_timestamp() + make_interval(secs => p_ttl_s), p_seq)
    ON CONFLICT (scope, gateway_id) DO UPDATE
    SET slots = CASE WHEN excluded.seq >= s.seq THEN excluded.slots ELSE s.slots END,
        expires_at = CASE WHEN excluded.seq >= s.seq THEN excluded.expires_at ELSE s.expires_at END,
        seq = greatest(excluded.seq, s.seq)
    RETURNING slots
$$;

-- A gateway is there, and wants these slots (scope to number; 0 gives them back). What it has under way it keeps
-- even where a limit has become smaller: nobody can take a request back.
CREATE FUNCTION renew_slots(p_gateway text, p_wanted jsonb, p_ttl_s double precision, p_seq bigint DEFAULT 0)
RETURNS TABLE (slot_scope text, granted integer) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO gateway (gateway_id, seen_at) VALUES (p_gateway, clock_timestamp())
    ON CONFLICT (gateway_id) DO UPDATE SET seen_at = excluded.seen_at;
    PERFORM lock_scopes(ARRAY(SELECT jsonb_object_keys(p_wanted)));
    FOR slot_scope, granted IN
        SELECT w.key, least(w.value::integer, slots_left(w.key, p_gateway, coalesce(l.allowed_concurrency, 2147483647)))
          FROM jsonb_each_text(p_wanted) w LEFT JOIN scope_limit l ON l.scope = w.key ORDER BY w.key
    LOOP
        granted := set_slots(slot_scope, p_gateway, granted, p_ttl_s, p_seq);
        RETURN NEXT;
    END LOOP;
END $$;

CREATE TYPE limit_use AS (
    limit_scope text, verdict text, retry_after_s integer, reset_s integer,
    allowed_rpm bigint, used_requests bigint, allowed_tpm bigint, used_tokens bigint,
    allowed_concurrency integer, slots integer,
    monthly_budget_usd numeric, spent numeric, reserved numeric
);

-- Books a lease against all limits that apply to it, or against none. Windows are 61 one-second buckets of the
-- database's clock, which keep every window of 60 s; a permit is booked in the last second in which it may be
-- used. The first permit is granted where there is room for it; more of them only up to a share of what is left
-- (1 / p_share_of_rest) and of the limit (1 / p_share_of_limit), so that no gateway takes it all.
-- Answers one row a limit, as it was before the booking; `verdict` is null where it is kept, and what was
-- granted stands in every row. A lease that is known is answered as it was granted; `gone` once it is over.
CREATE FUNCTION grant_lease(
    p_lease_id uuid, p_gateway text, p_tenant text, p_scopes text[], p_permits bigint, p_tokens_each bigint,
    p_usd_each numeric, p_usd_extra numeric, p_slots jsonb, p_ttl_s double precision, p_lapse_s double precision,
    p_slot_ttl_s double precision, p_share_of_rest integer, p_share_of_limit integer, p_seq bigint DEFAULT 0
) RETURNS TABLE (
    limit_scope text, verdict text, retry_after_s integer, reset_s integer,
    allowed_rpm bigint, used_requests bigint, allowed_tpm bigint, used_tokens bigint,
    allowed_concurrency integer, slots integer,
    monthly_budget_usd numeric, spent numeric, reserved numeric,
    granted_permits bigint, granted_tokens bigint, granted_usd numeric
) LANGUAGE plpgsql AS $$
DECLARE
    bound record;
    known lease%ROWTYPE;
    now_at timestamptz;
    now_s bigint;
    last_s bigint;
    month_now date;
    permits bigint := p_permits;
    usd_needed numeric := CASE WHEN p_permits > 0 THEN p_usd_each ELSE p_usd_extra END;
    tokens_needed bigint := CASE WHEN p_permits > 0 THEN p_tokens_each ELSE 0 END;
    found limit_use[] := '{}';
    one limit_use;
    room numeric;
    refused boolean := false;
BEGIN
    PERFORM lock_scopes(p_scopes);
    now_at := clock_timestamp();
    now_s := floor(extract(epoch FROM now_at));
    last_s := floor(extract(epoch FROM now_at) + p_ttl_s);
    month_now := date_trunc('month', now_at AT TIME ZONE 'UTC')::date;
    SELECT * INTO known FROM lease l WHERE l.lease_id = p_lease_id;
    FOR bound IN
        SELECT * FROM scope_limit l WHERE l.scope = ANY (p_scopes) ORDER BY l.scope
    LOOP
        one := NULL;
        one.limit_scope := bound.scope;
        one.allowed_rpm := bound.allowed_rpm;
        one.allowed_tpm := bound.allowed_tpm;
        one.allowed_concurrency := bound.allowed_concurrency;
        one.monthly_budget_usd := bound.monthly_budget_usd;
        SELECT coalesce(sum(b.requests), 0), coalesce(sum(b.tokens), 0), (max(b.second) + 61 - now_s)::integer
          INTO one.used_requests, one.used_tokens, one.reset_s
          FROM rate_bucket b WHERE b.scope = bound.scope AND b.second > now_s - 61;
        SELECT g.spent, g.reserved INTO one.spent, one.reserved FROM budget g
         WHERE g.scope = bound.scope AND g.month = month_now;
        one.spent := coalesce(one.spent, 0);
        one.reserved := coalesce(one.reserved, 0);
        IF known.lease_id IS NULL THEN
            IF permits > 0 AND one.used_requests + 1 > bound.allowed_rpm THEN
                one.verdict := 'rpm';
                SELECT (min(s.second) + 61 - now_s)::integer INTO one.retry_after_s FROM (
                    SELECT b.second, sum(b.requests) OVER (ORDER BY b.second) AS freed FROM rate_bucket b
                     WHERE b.scope = bound.scope AND b.second > now_s - 61) s
                 WHERE s.freed >= one.used_requests + 1 - bound.allowed_rpm;
            ELSIF one.used_tokens + tokens_needed > bound.allowed_tpm THEN
                one.verdict := 'tpm';
                SELECT (min(s.second) + 61 - now_s)::integer INTO one.retry_after_s FROM (
                    SELECT b.second, sum(b.tokens) OVER (ORDER BY b.second) AS freed FROM rate_bucket b
                     WHERE b.scope = bound.scope AND b.second > now_s - 61) s
                 WHERE s.freed >= one.used_tokens + tokens_needed - bound.allowed_tpm;
            ELSIF one.spent + one.reserved + usd_needed > bound.monthly_budget_usd THEN
                one.verdict := 'budget';
            ELSIF permits > 0 AND bound.allowed_concurrency IS NOT NULL THEN
                one.slots := slots_left(bound.scope, p_gateway, bound.allowed_concurrency);
                IF one.slots < coalesce((p_slots ->> bound.scope)::integer, 1) THEN
                    one.verdict := 'concurrency';
                    one.retry_after_s := 1;
                END IF;
            END IF;
            IF one.verdict IS NULL AND permits > 1 THEN
                IF bound.allowed_rpm IS NOT NULL THEN
                    room := least((bound.allowed_rpm - one.used_requests) / p_share_of_rest,
                                  bound.allowed_rpm / p_share_of_limit);
                    permits := greatest(1, least(permits, room::bigint));
                END IF;
                IF bound.allowed_tpm IS NOT NULL AND p_tokens_each > 0 THEN
                    room := least((bound.allowed_tpm - one.used_tokens) / p_share_of_rest,
                                  bound.allowed_tpm / p_share_of_limit);
                    permits := greatest(1, least(permits, floor(room / p_tokens_each)::bigint));
                END IF;
                IF bound.monthly_budget_usd IS NOT NULL AND p_usd_each > 0 THEN
                    room := least((bound.monthly_budget_usd - one.spent - one.reserved) / p_share_of_rest,
                                  bound.monthly_budget_usd / p_share_of_limit);
                    permits := greatest(1, least(permits, floor(room / p_usd_each)::bigint));
                END IF;
            END IF;
            refused := refused OR one.verdict IS NOT NULL;
        ELSIF known.is_returned OR known.second < now_s THEN
            one.verdict := 'gone';
        ELSIF bound.scope = ANY (known.scopes) THEN -- as it was before the booking, which is in the sums already
            one.used_requests := greatest(0, one.used_requests - known.granted_permits);
            one.used_tokens := greatest(0, one.used_tokens - known.granted_tokens);
        END IF;
        found := found || one;
    END LOOP;
    IF cardinality(found) = 0 THEN
        RETURN;
    END IF;
    IF known.lease_id IS NULL AND NOT refused THEN
        known.granted_permits := permits;
        known.granted_tokens := permits * p_tokens_each;
        known.granted_usd := CASE WHEN permits > 0 THEN permits * p_usd_each ELSE p_usd_extra END;
        INSERT INTO lease (lease_id, gateway_id, tenant_id, scopes, second, month, granted_permits, granted_tokens,
                           granted_usd, permits, tokens, usd, granted_at, lapses_at)
        VALUES (p_lease_id, p_gateway, p_tenant, p_scopes, last_s, month_now, known.granted_permits,
                known.granted_tokens, known.granted_usd, known.granted_permits, known.granted_tokens,
                known.granted_usd, now_at, now_at + make_interval(secs => p_lapse_s));
        IF permits > 0 THEN
            INSERT INTO rate_bucket AS b (scope, second, requests, tokens)
            SELECT s, last_s, known.granted_permits, known.granted_tokens FROM unnest(p_scopes) s ORDER BY s
            ON CONFLICT (scope, second)
            DO UPDATE SET requests = b.requests + excluded.requests, tokens = b.tokens + excluded.tokens;
        END IF;
        IF known.granted_usd > 0 THEN
            INSERT INTO budget AS g (scope, month, reserved)
            SELECT s, month_now, known.granted_usd FROM unnest(p_scopes) s ORDER BY s
            ON CONFLICT (scope, month) DO UPDATE SET reserved = g.reserved + excluded.reserved;
        END IF;
    END IF;
    FOREACH one IN ARRAY found LOOP
        IF one.allowed_concurrency IS NOT NULL AND one.verdict IS NULL AND NOT refused AND p_permits > 0 THEN
            one.slots := set_slots(one.limit_scope, p_gateway, least(
                slots_left(one.limit_scope, p_gateway, one.allowed_concurrency),
                coalesce((p_slots ->> one.limit_scope)::integer, 1) + (known.granted_permits - 1)::integer),
                p_slot_ttl_s, p_seq);
        END IF;
        RETURN QUERY SELECT one.limit_scope, one.verdict, one.retry_after_s, one.reset_s,
            one.allowed_rpm, one.used_requests, one.allowed_tpm, one.used_tokens,
            one.allowed_concurrency, one.slots, one.monthly_budget_usd, one.spent, one.reserved,
            coalesce(known.granted_permits, 0), coalesce(known.granted_tokens, 0), coalesce(known.granted_usd, 0);
    END LOOP;
END $$;

CREATE TYPE budget_change AS (scope text, month date, spent numeric, reserved numeric, unconfirmed numeric);

-- Changes budgets, in the order of their names, and tells once of each threshold (in percent) that what is spent
-- has come to. The thresholds begin anew when an operator changes the budget.
CREATE FUNCTION change_budgets(p_changes budget_change[]) RETURNS void LANGUAGE plpgsql AS $$
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
        SELECT g.*, l.monthly_budget_usd AS amount
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
                       'threshold_percent', threshold)
              FROM (SELECT 1) always LEFT JOIN api_key k ON 'k/' || k.key_id = changed.scope;
        END LOOP;
    END LOOP;
END $$;

-- Takes a lease back: what was not used is free again, at once. True: it was done now. A lease that is not known
-- is noted as returned, so that an ask which is still on its way finds it so.
CREATE FUNCTION return_lease(
    p_lease_id uuid, p_tenant text, p_permits bigint, p_tokens bigint, p_usd numeric, p_everything boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    held lease%ROWTYPE;
    freed numeric;
    uncharged numeric;
BEGIN
    INSERT INTO lease (lease_id, gateway_id, tenant_id, scopes, second, month, granted_permits, granted_tokens,
                       granted_usd, permits, tokens, usd, is_returned, granted_at, lapses_at)
    VALUES (p_lease_id, '', p_tenant, '{}', 0, date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date,
            0, 0, 0, 0, 0, 0, true, clock_timestamp(), clock_timestamp())
    ON CONFLICT (lease_id) DO NOTHING;
    SELECT * INTO held FROM lease WHERE lease_id = p_lease_id AND (p_tenant IS NULL OR tenant_id = p_tenant) FOR UPDATE;
    IF NOT FOUND OR held.is_returned THEN
        RETURN false;
    END IF;
    IF p_everything THEN
        p_permits := held.permits;
        p_tokens := held.tokens;
        p_usd := held.usd + held.charged;
    END IF;
    p_permits := least(p_permits, held.permits);
    p_tokens := least(p_tokens, held.tokens);
    freed := least(p_usd, held.usd);
    uncharged := least(p_usd - freed, held.charged);
    UPDATE lease SET permits = permits - p_permits, tokens = tokens - p_tokens, usd = usd - freed,
           charged = charged - uncharged, is_returned = true
     WHERE lease_id = p_lease_id;
    -- Rows are locked in the order in which everybody takes them: leases, windows, budgets, each by name.
    PERFORM 1 FROM rate_bucket b WHERE b.scope = ANY (held.scopes) AND b.second = held.second
      ORDER BY b.scope FOR UPDATE;
    UPDATE rate_bucket b SET requests = b.requests - p_permits, tokens = b.tokens - p_tokens
     WHERE b.scope = ANY (held.scopes) AND b.second = held.second;
    PERFORM change_budgets(ARRAY(
        SELECT (s, held.month, -uncharged, -freed, -uncharged)::budget_change FROM unnest(held.scopes) s
         WHERE freed > 0 OR uncharged > 0));
    RETURN true;
END $$;

-- Charges at their worst case the leases that nobody reports on any more: those that are too old, and those of
-- gateways that are dead. A late report or return takes the charge back.
CREATE FUNCTION lapse_leases(p_gateway_ttl_s double precision, p_at_most integer)
RETURNS TABLE (lapsed_lease uuid, lapsed_gateway text, lapsed_usd numeric) LANGUAGE plpgsql AS $$
DECLARE
    changes budget_change[] := '{}';
    held record;
BEGIN
    FOR held IN
        SELECT l.* FROM lease l LEFT JOIN gateway w USING (gateway_id)
         WHERE l.usd > 0 AND (
               l.lapses_at < clock_timestamp()
            OR greatest(w.seen_at, l.granted_at) < clock_timestamp() - make_interval(secs => p_gateway_ttl_s))
         ORDER BY l.lease_id LIMIT p_at_most FOR UPDATE OF l SKIP LOCKED
    LOOP
        UPDATE lease SET usd = 0, charged = charged + held.usd WHERE lease_id = held.lease_id;
        changes := changes || ARRAY(
            SELECT (s, held.month, held.usd, -held.usd, held.usd)::budget_change FROM unnest(held.scopes) s);
        lapsed_lease := held.lease_id;
        lapsed_gateway := held.gateway_id;
        lapsed_usd := held.usd;
        RETURN NEXT;
    END LOOP;
    PERFORM change_budgets(changes);
END $$;

-- The ledger, a partition a month. A request id is a UUIDv7, whose first 48 bits are the millisecond in which it
-- was made: so the primary key is of the request id alone, whatever month its report comes in.
CREATE FUNCTION first_id_of(p_month date) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-0000-0000-000000000000')::uuid
      FROM (SELECT lpad(to_hex((extract(epoch FROM p_month) * 1000)::bigint), 12, '0')) t (ms)
$$;

ALTER TABLE usage_ledger RENAME TO usage_ledger_before;
ALTER TABLE usage_ledger_before RENAME CONSTRAINT usage_ledger_pkey TO usage_ledger_before_pkey;
DROP INDEX usage_ledger_tenant, usage_ledger_started;
CREATE TABLE usage_ledger (
    LIKE usage_ledger_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS,
    reserved_usd numeric NOT NULL DEFAULT 0,
    gateway_id   text,
    PRIMARY KEY (request_id)
) PARTITION BY RANGE (request_id);
CREATE INDEX usage_ledger_started ON usage_ledger (started_at);
CREATE TABLE usage_ledger_other PARTITION OF usage_ledger DEFAULT;

-- Makes the partitions of this month and of the next ones, whoever else does so at the same time. What has come
-- for such a month before, from a gateway whose clock is ahead, is moved there. An attached table, other than one
-- that is created as a partition, does not make the whole ledger wait.
CREATE FUNCTION make_ledger_partitions(p_months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month date := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date;
    part text;
    first uuid;
    after uuid;
BEGIN
    FOR i IN 0 .. p_months LOOP
        part := 'usage_ledger_' || to_char(month, 'YYYY_MM');
        first := first_id_of(month);
        month := (month + interval '1 month')::date;
        after := first_id_of(month);
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        LOCK TABLE usage_ledger_other IN ACCESS EXCLUSIVE MODE;
        CONTINUE WHEN to_regclass(part) IS NOT NULL; -- somebody else was faster
        EXECUTE format('CREATE TABLE %I (LIKE usage_ledger INCLUDING ALL)', part);
        EXECUTE format('WITH moved AS (DELETE FROM usage_ledger_other WHERE request_id >= %L AND request_id < %L'
                       ' RETURNING *) INSERT INTO %I SELECT * FROM moved', first, after, part);
        EXECUTE format('ALTER TABLE usage_ledger ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       part, first, after);
    END LOOP;
END $$;
SELECT make_ledger_partitions(2);

-- Sums, kept with every line of the ledger: a year of usage is read from days, its ends from hours and lines.
CREATE TABLE usage_day (
    day                    date NOT NULL,
    tenant_id              text NOT NULL,
    key_id                 text NOT NULL,
    global_model_id        text NOT NULL,
    provider_id            text NOT NULL,
    requests               bigint NOT NULL,
    input_tokens           bigint NOT NULL,
    output_tokens          bigint NOT NULL,
    cost_usd               numeric NOT NULL,
    requests_without_price bigint NOT NULL,
    requests_estimated     bigint NOT NULL,
    PRIMARY KEY (day, tenant_id, key_id, global_model_id, provider_id)
);
COMMENT ON COLUMN usage_day.provider_id IS 'Empty: no provider was tried.';
CREATE INDEX usage_day_tenant ON usage_day (tenant_id, day);
CREATE TABLE usage_hour (
    hour                   timestamptz NOT NULL,
    tenant_id              text NOT NULL,
    key_id                 text NOT NULL,
    global_model_id        text NOT NULL,
    provider_id            text NOT NULL,
    requests               bigint NOT NULL,
    input_tokens           bigint NOT NULL,
    output_tokens          bigint NOT NULL,
    cost_usd               numeric NOT NULL,
    requests_without_price bigint NOT NULL,
    requests_estimated     bigint NOT NULL,
    PRIMARY KEY (hour, tenant_id, key_id, global_model_id, provider_id)
);

CREATE FUNCTION add_to_sums(p_requests uuid[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO usage_hour AS u
    SELECT date_trunc('hour', l.started_at, 'UTC'), l.tenant_id, l.key_id, l.global_model_id,
           coalesce(l.provider_id, ''), count(*), sum(l.input_tokens), sum(l.output_tokens),
           coalesce(sum(l.cost_usd), 0), count(*) FILTER (WHERE l.cost_usd IS NULL),
           count(*) FILTER (WHERE l.is_estimated)
      FROM usage_ledger l WHERE l.request_id = ANY (p_requests)
     GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (hour, tenant_id, key_id, global_model_id, provider_id) DO UPDATE
    SET requests = u.requests + excluded.requests, input_tokens = u.input_tokens + excluded.input_tokens,
        output_tokens = u.output_tokens + excluded.output_tokens, cost_usd = u.cost_usd + excluded.cost_usd,
        requests_without_price = u.requests_without_price + excluded.requests_without_price,
        requests_estimated = u.requests_estimated + excluded.requests_estimated;
    INSERT INTO usage_day AS u
    SELECT (l.started_at AT TIME ZONE 'UTC')::date, l.tenant_id, l.key_id, l.global_model_id,
           coalesce(l.provider_id, ''), count(*), sum(l.input_tokens), sum(l.output_tokens),
           coalesce(sum(l.cost_usd), 0), count(*) FILTER (WHERE l.cost_usd IS NULL),
           count(*) FILTER (WHERE l.is_estimated)
      FROM usage_ledger l WHERE l.request_id = ANY (p_requests)
     GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (day, tenant_id, key_id, global_model_id, provider_id) DO UPDATE
    SET requests = u.requests + excluded.requests, input_tokens = u.input_tokens + excluded.input_tokens,
        output_tokens = u.output_tokens + excluded.output_tokens, cost_usd = u.cost_usd + excluded.cost_usd,
        requests_without_price = u.requests_without_price + excluded.requests_without_price,
        requests_estimated = u.requests_estimated + excluded.requests_estimated;
$$;
INSERT INTO usage_ledger SELECT * FROM usage_ledger_before;
SELECT add_to_sums(ARRAY(SELECT request_id FROM usage_ledger));
DROP TABLE usage_ledger_before;

-- Puts requests into the ledger, the sums and the budgets, each once whatever is delivered again: what a request
-- drew from leases is freed, or what was charged when they lapsed taken back, and its cost is spent in the month
-- in which it was admitted. Its true tokens take the place of the booked ones in its window. Answers the requests
-- that are new. A settlement is never refused: what is dearer than its reservation is an overrun.
CREATE FUNCTION record_calls(p_calls jsonb) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    added uuid[];
BEGIN
    WITH inserted AS (
        INSERT INTO usage_ledger (
            request_id, tenant_id, key_id, global_model_id, provider_id, provider_model_id, operation, stream,
            outcome, http_status, started_at, latency_s, ttft_s, input_tokens, output_tokens, cache_read_tokens,
            cache_write_tokens, reasoning_tokens, cost_usd, is_estimated, attempts, reserved_usd, gateway_id)
        SELECT request_id, tenant_id, key_id, global_model_id, provider_id, provider_model_id, operation, stream,
            outcome, http_status, started_at, latency_s, ttft_s, input_tokens, output_tokens, cache_read_tokens,
            cache_write_tokens, reasoning_tokens, cost_usd, is_estimated, attempts, reserved_usd, gateway_id
          FROM jsonb_populate_recordset(NULL::usage_ledger, p_calls) ORDER BY request_id
        ON CONFLICT (request_id) DO NOTHING
        RETURNING request_id
    )
    SELECT array_agg(request_id) INTO added FROM inserted;
    IF added IS NULL THEN
        RETURN;
    END IF;
    PERFORM add_to_sums(added);
    PERFORM settle_draws(added, p_calls);
    RETURN QUERY SELECT unnest(added);
END $$;

CREATE FUNCTION settle_draws(p_added uuid[], p_calls jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    calls jsonb;
    changes budget_change[];
    freed record;
BEGIN
    -- The same request may stand twice in a batch: its first line counts.
    SELECT jsonb_agg(c) INTO calls FROM (
        SELECT DISTINCT ON (c ->> 'request_id') c FROM jsonb_array_elements(p_calls) WITH ORDINALITY e (c, place)
         WHERE (c ->> 'request_id')::uuid = ANY (p_added) ORDER BY c ->> 'request_id', place) t;
    PERFORM 1 FROM lease l
      WHERE l.lease_id IN (SELECT (d ->> 'lease_id')::uuid FROM jsonb_array_elements(calls) c,
                           jsonb_array_elements(c -> 'draws') d)
      ORDER BY l.lease_id FOR UPDATE;
    -- What each request costs, in the month of the lease that admitted it.
    changes := ARRAY(
        SELECT (s.scope, coalesce(
                    (SELECT l.month FROM lease l WHERE l.lease_id = (c -> 'draws' -> 0 ->> 'lease_id')::uuid
                        AND l.tenant_id = c ->> 'tenant_id'),
                    date_trunc('month', least((c ->> 'started_at')::timestamptz, clock_timestamp())
                               AT TIME ZONE 'UTC')::date),
                (c ->> 'cost_usd')::numeric, 0, 0)::budget_change
          FROM jsonb_array_elements(calls) c,
               LATERAL unnest(ARRAY['t/' || (c ->> 'tenant_id') || '/*',
                                    't/' || (c ->> 'tenant_id') || '/' || (c ->> 'global_model_id'),
                                    'k/' || (c ->> 'key_id')]) s (scope)
         WHERE (c ->> 'cost_usd')::numeric > 0);
    -- What the leases had reserved for them, or were charged for.
    FOR freed IN
        SELECT l.lease_id, l.scopes, l.month, l.second, least(t.usd, l.usd) AS usd,
               least(t.usd - least(t.usd, l.usd), l.charged) AS uncharged,
               least(t.permits, l.permits) AS permits, least(t.tokens, l.tokens) AS tokens
          FROM (SELECT (d ->> 'lease_id')::uuid AS lease_id, c ->> 'tenant_id' AS tenant_id,
                       sum((d ->> 'usd')::numeric) AS usd, sum((d ->> 'permits')::bigint) AS permits,
                       sum((d ->> 'tokens')::bigint) AS tokens
                  FROM jsonb_array_elements(calls) c, jsonb_array_elements(c -> 'draws') d GROUP BY 1, 2) t
          JOIN lease l ON l.lease_id = t.lease_id AND l.tenant_id = t.tenant_id
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
            SELECT s, l.second FROM jsonb_array_elements(calls) c
              JOIN lease l ON l.lease_id = (c -> 'draws' -> 0 ->> 'lease_id')::uuid, unnest(l.scopes) s)
      ORDER BY b.scope, b.second FOR UPDATE;
    UPDATE rate_bucket b SET tokens = greatest(0, b.tokens + t.more)
      FROM (SELECT s.scope, l.second, sum((c ->> 'used_tokens')::bigint - (c -> 'draws' -> 0 ->> 'tokens')::bigint) AS more
              FROM jsonb_array_elements(calls) c
              JOIN lease l ON l.lease_id = (c -> 'draws' -> 0 ->> 'lease_id')::uuid AND l.tenant_id = c ->> 'tenant_id',
                   unnest(l.scopes) s (scope)
             GROUP BY 1, 2) t
     WHERE b.scope = t.scope AND b.second = t.second;
    PERFORM change_budgets(changes);
END $$;

ALTER TABLE dead_letter ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY UNIQUE;

-- One key among many days; it grows with new rows only, since what changes in a row is not in it.
CREATE INDEX usage_day_key ON usage_day (key_id, day);
