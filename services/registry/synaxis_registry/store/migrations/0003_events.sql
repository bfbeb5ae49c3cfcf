-- Where the outbox stands: up to which message of which stream all that was published is also deleted here, and
-- which bucket holds the states. One row; it changes in the transactions that delete what has been published.
CREATE TABLE event_cursor (
    is_only         boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    stream_created  timestamptz NOT NULL,
    stream_sequence bigint NOT NULL,
    bucket_created  timestamptz NOT NULL,
    bucket_sequence bigint NOT NULL
);
COMMENT ON COLUMN event_cursor.stream_created IS 'A stream that was lost and made anew has another one, and counts from 1 again.';
