-- name: lock_job
SELECT pg_advisory_xact_lock(hashtextextended('job:' || $1, 0))

-- name: fail_abandoned
-- Runs whose worker has not been heard of since their lease ended, or that no worker took.
UPDATE job_run
SET status = 'failed', finished_at = clock_timestamp(), fence = fence + 1,
    error = CASE WHEN worker_id IS NULL THEN 'no worker took it' ELSE 'its worker was lost' END,
    retry_at = clock_timestamp()
WHERE job = $1 AND status = 'running' AND lease_expires_at < clock_timestamp()

-- name: take_requested
-- A run that an operator asked for and that nobody has begun.
UPDATE job_run
SET worker_id = $2, started_at = clock_timestamp(), fence = fence + 1,
    lease_expires_at = clock_timestamp() + make_interval(secs => $3)
WHERE run_id = (
    SELECT run_id FROM job_run WHERE job = $1 AND status = 'running' AND worker_id IS NULL
    ORDER BY created_at LIMIT 1)
RETURNING run_id, fence, trigger

-- name: running
SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 AS ends_in_s FROM job_run
WHERE job = $1 AND status = 'running' LIMIT 1

-- name: newest_slot
-- The newest slot that was ever begun, with its last attempt.
SELECT scheduled_at, status, attempt, extract(epoch FROM retry_at - clock_timestamp())::float8 AS retry_in_s
FROM job_run WHERE job = $1 AND trigger <> 'manual'
ORDER BY scheduled_at DESC, attempt DESC LIMIT 1

-- name: begin
INSERT INTO job_run (run_id, job, trigger, scheduled_at, attempt, status, worker_id, started_at, lease_expires_at)
VALUES ($1, $2, $3, $4, $5, 'running', $6, clock_timestamp(), clock_timestamp() + make_interval(secs => $7))
RETURNING run_id, fence, trigger

-- name: request
INSERT INTO job_run (run_id, job, trigger, scheduled_at, attempt, status, lease_expires_at)
VALUES ($1, $2, 'manual', clock_timestamp(), 1, 'running', clock_timestamp() + interval '60 seconds')
RETURNING *

-- name: keep
UPDATE job_run SET lease_expires_at = clock_timestamp() + make_interval(secs => $3)
WHERE run_id = $1 AND fence = $2 AND status = 'running' RETURNING run_id

-- name: finish
UPDATE job_run
SET status = $3, counts = $4, error = $5, finished_at = clock_timestamp(),
    retry_at = CASE WHEN $3 = 'failed'
        THEN clock_timestamp() + least(interval '1 minute' * power(2, least(attempt - 1, 10)), interval '1 hour') END
WHERE run_id = $1 AND fence = $2 AND status = 'running' RETURNING run_id

-- name: runs
SELECT * FROM job_run
WHERE job = $1 AND ($2::timestamptz IS NULL OR created_at < $2) ORDER BY created_at DESC LIMIT $3

-- name: last_runs
SELECT DISTINCT ON (job) * FROM job_run ORDER BY job, created_at DESC
