-- The tables of the registry. A record is kept as JSON, exact and whole; what SQL asks for by name is a
-- generated column of it, so that the two can never differ. Amounts of money in JSON are decimal strings.

CREATE TABLE provider (
    provider_id  text PRIMARY KEY,
    record       jsonb NOT NULL,
    is_on        boolean NOT NULL,
    off_reason   text,
    next_poll_at timestamptz,
    changed_xid  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    name         text GENERATED ALWAYS AS (record ->> 'name') STORED,
    source       text GENERATED ALWAYS AS (record ->> 'source') STORED
);
CREATE INDEX provider_due ON provider (next_poll_at) WHERE next_poll_at IS NOT NULL;
CREATE INDEX provider_changed ON provider (changed_xid);

CREATE TABLE global_model (
    id          text PRIMARY KEY,
    record      jsonb NOT NULL,
    changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    name        text GENERATED ALWAYS AS (coalesce(record ->> 'operator_name', record ->> 'name')) STORED,
    vendor      text GENERATED ALWAYS AS (record ->> 'vendor') STORED,
    status      text GENERATED ALWAYS AS (coalesce(record ->> 'operator_status', record ->> 'status')) STORED
);
CREATE INDEX global_model_changed ON global_model (changed_xid);

CREATE TABLE provider_model (
    provider_id       text NOT NULL REFERENCES provider,
    provider_model_id text NOT NULL,
    record            jsonb NOT NULL,
    changed_xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    global_model_id   text NOT NULL GENERATED ALWAYS AS (record ->> 'global_model_id') STORED,
    resolved_by       text GENERATED ALWAYS AS (record ->> 'resolved_by') STORED,
    is_available      boolean NOT NULL GENERATED ALWAYS AS ((record ->> 'is_available')::boolean) STORED,
    unavailable_reason text GENERATED ALWAYS AS (record ->> 'unavailable_reason') STORED,
    input_price       numeric GENERATED ALWAYS AS
        (coalesce(record ->> 'override_input_price', record -> 'prices' ->> 'input')::numeric) STORED,
    output_price      numeric GENERATED ALWAYS AS
        (coalesce(record ->> 'override_output_price', record -> 'prices' ->> 'output')::numeric) STORED,
    PRIMARY KEY (provider_id, provider_model_id),
    CHECK (input_price >= 0 AND input_price < 1e12),
    CHECK (output_price >= 0 AND output_price < 1e12)
);
CREATE INDEX provider_model_global ON provider_model (global_model_id);
CREATE INDEX provider_model_changed ON provider_model (changed_xid);

CREATE TABLE price_history (
    provider_id       text NOT NULL,
    provider_model_id text NOT NULL,
    changed_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    prices            jsonb NOT NULL,
    PRIMARY KEY (provider_id, provider_model_id, changed_at)
);

CREATE TABLE key_variable (
    name      text PRIMARY KEY,
    is_set    boolean NOT NULL,
    told_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE key_variable IS 'Names of the variables that discovery was asked about, and whether they are set. Never values.';

CREATE TABLE tenant (
    id         text PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at timestamptz
);

CREATE TABLE api_key (
    key_id      text PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES tenant,
    name        text NOT NULL,
    key_hash    text NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at  timestamptz,
    changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX api_key_tenant ON api_key (tenant_id);
CREATE INDEX api_key_changed ON api_key (changed_xid);

CREATE TABLE tenant_model_limit (
    tenant_id          text NOT NULL REFERENCES tenant,
    global_model_id    text NOT NULL,
    allowed_rpm        integer CHECK (allowed_rpm >= 0),
    allowed_tpm        bigint CHECK (allowed_tpm >= 0),
    monthly_budget_usd numeric CHECK (monthly_budget_usd >= 0 AND monthly_budget_usd < 1e12),
    allowed            boolean NOT NULL DEFAULT true,
    deleted_at         timestamptz,
    changed_xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (tenant_id, global_model_id)
);
CREATE INDEX tenant_model_limit_changed ON tenant_model_limit (changed_xid);

CREATE TABLE rate_bucket (
    tenant_id       text NOT NULL,
    global_model_id text NOT NULL,
    second          bigint NOT NULL,
    requests        bigint NOT NULL,
    tokens          bigint NOT NULL,
    PRIMARY KEY (tenant_id, global_model_id, second)
);

CREATE TABLE budget (
    tenant_id       text NOT NULL,
    global_model_id text NOT NULL,
    month           date NOT NULL,
    spent           numeric NOT NULL DEFAULT 0 CHECK (spent >= 0 AND spent < 1e12),
    reserved        numeric NOT NULL DEFAULT 0 CHECK (reserved >= 0 AND reserved < 1e12),
    PRIMARY KEY (tenant_id, global_model_id, month)
);

COMMENT ON TABLE budget IS 'What every tenant spends in a month, limited or not: a limit set later finds it here.';

CREATE TABLE permit (
    request_id uuid PRIMARY KEY,
    tenant_id  text NOT NULL,
    limits     text[] NOT NULL,
    second     bigint NOT NULL,
    requests   bigint NOT NULL,
    tokens     bigint NOT NULL,
    usd        numeric NOT NULL CHECK (usd >= 0 AND usd < 1e12),
    month      date NOT NULL,
    state      text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'settled', 'lapsed', 'returned')),
    expires_at timestamptz NOT NULL
);
CREATE INDEX permit_held ON permit (expires_at) WHERE state = 'held';

CREATE TABLE usage_ledger (
    request_id        uuid PRIMARY KEY,
    tenant_id         text NOT NULL,
    key_id            text NOT NULL,
    global_model_id   text NOT NULL,
    provider_id       text,
    provider_model_id text,
    operation         text NOT NULL,
    stream            boolean NOT NULL,
    outcome           text NOT NULL,
    http_status       integer NOT NULL,
    started_at        timestamptz NOT NULL,
    latency_s         double precision NOT NULL,
    ttft_s            double precision,
    input_tokens      bigint NOT NULL,
    output_tokens     bigint NOT NULL,
    cache_read_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens  bigint NOT NULL,
    cost_usd          numeric CHECK (cost_usd >= 0 AND cost_usd < 1e12),
    is_estimated      boolean NOT NULL,
    attempts          jsonb NOT NULL,
    recorded_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX usage_ledger_tenant ON usage_ledger (tenant_id, started_at);
CREATE INDEX usage_ledger_started ON usage_ledger (started_at);
COMMENT ON COLUMN usage_ledger.cost_usd IS 'NULL: a price that it needs was unknown.';

CREATE TABLE endpoint_health (
    provider_id       text NOT NULL,
    provider_model_id text NOT NULL,
    state             jsonb NOT NULL,
    changed_xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (provider_id, provider_model_id)
);
CREATE INDEX endpoint_health_changed ON endpoint_health (changed_xid);

CREATE TABLE job_run (
    run_id           uuid PRIMARY KEY,
    job              text NOT NULL,
    trigger          text NOT NULL CHECK (trigger IN ('schedule', 'manual', 'retry')),
    scheduled_at     timestamptz NOT NULL,
    attempt          integer NOT NULL,
    status           text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed')),
    fence            bigint NOT NULL DEFAULT 1,
    worker_id        text,
    lease_expires_at timestamptz NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at       timestamptz,
    finished_at      timestamptz,
    retry_at         timestamptz,
    counts           jsonb NOT NULL DEFAULT '{}',
    error            text
);
CREATE UNIQUE INDEX job_run_slot ON job_run (job, scheduled_at, attempt) WHERE trigger <> 'manual';
CREATE INDEX job_run_newest ON job_run (job, created_at DESC);

CREATE TABLE catalog_source (
    name        text PRIMARY KEY,
    value       text NOT NULL,
    observed_at timestamptz NOT NULL
);
COMMENT ON TABLE catalog_source IS 'What of models.dev has been applied: content hashes and entity tags by name.';

CREATE TABLE outbox (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    type     text NOT NULL,
    data     jsonb NOT NULL
);

CREATE TABLE dead_letter (
    stream      text NOT NULL,
    sequence    bigint NOT NULL,
    subject     text NOT NULL,
    payload     bytea NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream, sequence, at)
);

-- Readers find what has changed by the id of the transaction that did it: an id or a time taken from a sequence
-- or a clock would miss a transaction that commits after a later one.
CREATE FUNCTION stamp_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END $$;

CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(TG_ARGV[0], '');
    RETURN NULL;
END $$;

DO $$
DECLARE
    watched text;
    channel text;
BEGIN
    FOREACH watched IN ARRAY ARRAY['provider', 'global_model', 'provider_model', 'api_key', 'tenant_model_limit',
                                   'endpoint_health'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION stamp_change()',
                       watched || '_stamp', watched);
    END LOOP;
    -- Health changes with every report and is read on a timer; only circuits are told of at once, see below.
    FOREACH watched IN ARRAY ARRAY['provider', 'global_model', 'provider_model', 'api_key', 'tenant_model_limit'] LOOP
        channel := CASE WHEN watched IN ('api_key', 'tenant_model_limit') THEN 'synaxis_tenants' ELSE 'synaxis_changed' END;
        EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION tell(%L)',
                       watched || '_tell', watched, channel);
    END LOOP;
END $$;

CREATE TRIGGER endpoint_health_tell_new AFTER INSERT ON endpoint_health FOR EACH ROW
    WHEN (coalesce(NEW.state ->> 'open_until', NEW.state ->> 'limited_until') IS NOT NULL)
    EXECUTE FUNCTION tell('synaxis_changed');
CREATE TRIGGER endpoint_health_tell AFTER UPDATE ON endpoint_health FOR EACH ROW
    WHEN ((NEW.state ->> 'open_until', NEW.state ->> 'limited_until')
          IS DISTINCT FROM (OLD.state ->> 'open_until', OLD.state ->> 'limited_until'))
    EXECUTE FUNCTION tell('synaxis_changed');

CREATE TRIGGER outbox_tell AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION tell('synaxis_outbox');

-- Books one request against all limits that apply to it, or against none. The rows of the limits are locked in
-- the order of their names, so that concurrent grants of a tenant queue up and never deadlock; each statement
-- below then sees what the one before it in the queue has committed. Windows are 61 one-second buckets of the
-- database's clock, which keep every window of 60 s. Answers one row a limit; `verdict` is null where it is kept.
CREATE FUNCTION grant_permit(
    p_request_id uuid, p_tenant text, p_limits text[], p_requests bigint, p_tokens bigint, p_usd numeric, p_ttl_s integer
) RETURNS TABLE (
    limit_model text, verdict text, retry_after_s integer,
    allowed_rpm integer, used_requests bigint, allowed_tpm bigint, used_tokens bigint,
    monthly_budget_usd numeric, spent numeric, reserved numeric
) LANGUAGE plpgsql AS $$
DECLARE
    bound record;
    now_s bigint := floor(extract(epoch FROM clock_timestamp()));
    month_now date;
    known boolean;
    refused boolean := false;
    over bigint;
BEGIN
    PERFORM 1 FROM tenant_model_limit l
     WHERE l.tenant_id = p_tenant AND l.global_model_id = ANY (p_limits) AND l.deleted_at IS NULL
     ORDER BY l.global_model_id FOR UPDATE;
    now_s := floor(extract(epoch FROM clock_timestamp()));
    month_now := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date;
    known := EXISTS (SELECT 1 FROM permit p WHERE p.request_id = p_request_id);
    FOR bound IN
        SELECT l.* FROM tenant_model_limit l
         WHERE l.tenant_id = p_tenant AND l.global_model_id = ANY (p_limits) AND l.deleted_at IS NULL
         ORDER BY l.global_model_id
    LOOP
        limit_model := bound.global_model_id;
        verdict := NULL;
        retry_after_s := NULL;
        allowed_rpm := bound.allowed_rpm;
        allowed_tpm := bound.allowed_tpm;
        monthly_budget_usd := bound.monthly_budget_usd;
        SELECT coalesce(sum(b.requests), 0), coalesce(sum(b.tokens), 0) INTO used_requests, used_tokens
          FROM rate_bucket b
         WHERE b.tenant_id = p_tenant AND b.global_model_id = bound.global_model_id AND b.second > now_s - 61;
        spent := 0;
        reserved := 0;
        SELECT g.spent, g.reserved INTO spent, reserved FROM budget g
         WHERE g.tenant_id = p_tenant AND g.global_model_id = bound.global_model_id AND g.month = month_now;
        spent := coalesce(spent, 0);
        reserved := coalesce(reserved, 0);
        IF NOT known THEN
            IF used_requests + p_requests > bound.allowed_rpm THEN
                verdict := 'rpm';
                over := used_requests + p_requests - bound.allowed_rpm;
                SELECT (min(s.second) + 61 - now_s)::integer INTO retry_after_s FROM (
                    SELECT b.second, sum(b.requests) OVER (ORDER BY b.second) AS freed FROM rate_bucket b
                     WHERE b.tenant_id = p_tenant AND b.global_model_id = bound.global_model_id
                       AND b.second > now_s - 61) s
                 WHERE s.freed >= over;
            ELSIF used_tokens + p_tokens > bound.allowed_tpm THEN
                verdict := 'tpm';
                over := used_tokens + p_tokens - bound.allowed_tpm;
                SELECT (min(s.second) + 61 - now_s)::integer INTO retry_after_s FROM (
                    SELECT b.second, sum(b.tokens) OVER (ORDER BY b.second) AS freed FROM rate_bucket b
                     WHERE b.tenant_id = p_tenant AND b.global_model_id = bound.global_model_id
                       AND b.second > now_s - 61) s
                 WHERE s.freed >= over;
            ELSIF spent + reserved + p_usd > bound.monthly_budget_usd THEN
                verdict := 'budget';
            END IF;
            refused := refused OR verdict IS NOT NULL;
        END IF;
        RETURN NEXT;
    END LOOP;
    IF known OR refused THEN
        RETURN;
    END IF;
    INSERT INTO permit (request_id, tenant_id, limits, second, requests, tokens, usd, month, expires_at)
    VALUES (p_request_id, p_tenant, p_limits, now_s, p_requests, p_tokens, p_usd, month_now,
            clock_timestamp() + make_interval(secs => p_ttl_s));
    INSERT INTO rate_bucket AS b (tenant_id, global_model_id, second, requests, tokens)
    SELECT p_tenant, m, now_s, p_requests, p_tokens FROM unnest(p_limits) m ORDER BY m
    ON CONFLICT (tenant_id, global_model_id, second)
    DO UPDATE SET requests = b.requests + excluded.requests, tokens = b.tokens + excluded.tokens;
    INSERT INTO budget AS g (tenant_id, global_model_id, month, reserved)
    SELECT p_tenant, m, month_now, p_usd FROM unnest(p_limits) m ORDER BY m
    ON CONFLICT (tenant_id, global_model_id, month) DO UPDATE SET reserved = g.reserved + excluded.reserved;
END $$;

-- Ends a permit that was not used ('returned'), or that nobody has reported on ('lapsed': its worst case is spent).
CREATE FUNCTION end_permit(p_request_id uuid, p_state text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    held permit%ROWTYPE;
BEGIN
    UPDATE permit SET state = p_state WHERE request_id = p_request_id AND state = 'held' RETURNING * INTO held;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Rows are locked in the order in which grants take them: windows, then budgets, each by name.
    IF p_state = 'returned' THEN
        PERFORM 1 FROM rate_bucket b
         WHERE b.tenant_id = held.tenant_id AND b.global_model_id = ANY (held.limits) AND b.second = held.second
         ORDER BY b.global_model_id FOR UPDATE;
        UPDATE rate_bucket b SET requests = b.requests - held.requests, tokens = b.tokens - held.tokens
         WHERE b.tenant_id = held.tenant_id AND b.global_model_id = ANY (held.limits) AND b.second = held.second;
    END IF;
    PERFORM 1 FROM budget g
     WHERE g.tenant_id = held.tenant_id AND g.global_model_id = ANY (held.limits) AND g.month = held.month
     ORDER BY g.global_model_id FOR UPDATE;
    UPDATE budget g
       SET reserved = g.reserved - held.usd, spent = g.spent + CASE WHEN p_state = 'lapsed' THEN held.usd ELSE 0 END
     WHERE g.tenant_id = held.tenant_id AND g.global_model_id = ANY (held.limits) AND g.month = held.month;
    RETURN true;
END $$;

-- Puts what a request has cost into the budgets of its tenant, for all models and for the one that served it, in
-- the month in which it was admitted. What its permit reserved, or was charged when it lapsed, is taken back. The
-- caller has made sure that it is done once a request.
CREATE FUNCTION settle_call(
    p_request_id uuid, p_tenant text, p_model text, p_started_at timestamptz, p_cost numeric
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held permit%ROWTYPE;
    in_month date;
    charged text[] := ARRAY['*', p_model];
    freed numeric := 0;
    uncharged numeric := 0;
BEGIN
    SELECT * INTO held FROM permit WHERE request_id = p_request_id AND tenant_id = p_tenant FOR UPDATE;
    in_month := coalesce(
        held.month, date_trunc('month', least(p_started_at, clock_timestamp()) AT TIME ZONE 'UTC')::date);
    IF held.state = 'held' THEN
        freed := held.usd;
    ELSIF held.state = 'lapsed' THEN
        uncharged := held.usd;
    END IF;
    UPDATE permit SET state = 'settled' WHERE request_id = held.request_id;
    INSERT INTO budget (tenant_id, global_model_id, month)
    SELECT DISTINCT p_tenant, m, in_month FROM unnest(charged) m ORDER BY m
    ON CONFLICT DO NOTHING;
    PERFORM 1 FROM budget g
     WHERE g.tenant_id = p_tenant AND g.global_model_id = ANY (charged || held.limits) AND g.month = in_month
     ORDER BY g.global_model_id FOR UPDATE;
    UPDATE budget g
       SET reserved = g.reserved - CASE WHEN g.global_model_id = ANY (held.limits) THEN freed ELSE 0 END,
           spent = g.spent + CASE WHEN g.global_model_id = ANY (charged) THEN p_cost ELSE 0 END
                           - CASE WHEN g.global_model_id = ANY (held.limits) THEN uncharged ELSE 0 END
     WHERE g.tenant_id = p_tenant AND g.global_model_id = ANY (charged || held.limits) AND g.month = in_month;
END $$;
