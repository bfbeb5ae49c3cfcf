-- Addresses that get events, and what has become of each delivery. Their secrets are nowhere: they are derived.
CREATE TABLE webhook (
    id            text PRIMARY KEY,
    url           text NOT NULL,
    events        text[] NOT NULL,
    providers     text[] NOT NULL,
    models        text[] NOT NULL,
    allow_private boolean NOT NULL,
    enabled       boolean NOT NULL,
    off_reason    text,
    version       integer NOT NULL,
    rotated_at    timestamptz,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE webhook_delivery (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id      text NOT NULL REFERENCES webhook ON DELETE CASCADE,
    event_id        uuid NOT NULL,
    type            text NOT NULL,
    body            text NOT NULL,
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_attempt_at timestamptz,
    last_status     integer,
    last_error      text,
    UNIQUE (webhook_id, event_id)
);
COMMENT ON COLUMN webhook_delivery.body IS 'The event as it is sent, byte for byte: the signature is over it.';
CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, next_at, id) WHERE status = 'pending';
CREATE INDEX webhook_delivery_newest ON webhook_delivery (webhook_id, id DESC);
CREATE INDEX webhook_delivery_old ON webhook_delivery (created_at);
