"""How fast usage is summed with 10 million requests in the ledger.

    make bench-usage

Generates the requests of 30 days in an embedded Postgres of its own (about 5 GB, some minutes), fills the
sums, compares one answer with a plain sum over all lines of the ledger, and prints the median and the worst
of 20 runs of each query, as the registry makes it. Ends with 1 when a median of those by a single field is
above 100 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg

from synaxis_cli.embedded.postgres import PostgresServer
from synaxis_registry.core.periods import split
from synaxis_registry.store.admin import UsageOf, usage
from synaxis_registry.store.database import Database
from synaxis_registry.store.migrate import migrate

DAYS = 30
TENANTS, MODELS, PROVIDERS = 200, 40, 8
CHUNK = 1_000_000
RUNS = 20
MOST_MS = 100.0
GROUPS: tuple[tuple[str, ...], ...] = (
    (), ("tenant",), ("model",), ("provider",), ("key",), ("day",), ("tenant", "day"),
)  # fmt: skip

GENERATE = """
INSERT INTO usage_ledger (request_id, tenant_id, key_id, global_model_id, provider_id, provider_model_id,
    operation, stream, outcome, http_status, started_at, latency_s, input_tokens, output_tokens,
    cache_read_tokens, cache_write_tokens, reasoning_tokens, cost_usd, is_estimated, attempts, gateway_id)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || left(noise, 3) || '8'
           || substr(noise, 4, 15))::uuid,
       'tenant-' || key / 2, 'key-' || key, 'model-' || model, provider, 'vendor/model-' || model,
       'chat', true, 'ok', 200, at, 1.5, tokens, tokens / 4, 0, 0, 0,
       CASE WHEN g % 1000 > 0 THEN tokens * (model + 1) / 10000000.0 END, g % 50 = 0,
       jsonb_build_array(jsonb_build_object('provider_id', provider, 'outcome', 'ok', 'latency_s', 1.5)), 'gw'
  FROM (
    SELECT *, 'provider-' || (model * 3 + (luck > 0.9)::integer + (luck > 0.98)::integer) % $8 AS provider
      FROM (
        SELECT *, CASE WHEN $9 = $7 THEN choice
                       ELSE floor($7 * power(abs(hashint4(key * 1000 + choice)) / 2147483648.0, 2))
                  END::integer AS model
          FROM (
            SELECT g, $3::timestamptz + g * interval '1 day' * $4 / $5 AS at, md5(g::text) AS noise,
                   floor($6 * power(random(), 3))::integer * 2 + (random() < 0.2)::integer AS key,
                   floor($9 * power(random(), 2))::integer AS choice, random() AS luck,
                   (200 + 3000 * power(random(), 4))::bigint AS tokens
              FROM generate_series($1::bigint, $2::bigint) g OFFSET 0) one
         OFFSET 0) two
     OFFSET 0) three
"""
"""In the order of time, as they would come. Tenants and models are skewed; a tenant has a busy key and a
quiet one; a key uses some models, each mostly at the same provider, now and then at its second or third.
`OFFSET 0` keeps what is random from being evaluated once more in each place where it is used."""

FILL = """
INSERT INTO usage_{unit}
SELECT {key}, tenant_id, key_id, global_model_id, coalesce(provider_id, ''), count(*), sum(input_tokens),
       sum(output_tokens), coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL),
       count(*) FILTER (WHERE is_estimated)
  FROM usage_ledger GROUP BY 1, 2, 3, 4, 5 ORDER BY 1
"""
UNITS = {"hour": "date_trunc('hour', started_at, 'UTC')", "day": "(started_at AT TIME ZONE 'UTC')::date"}

PLAIN = """
SELECT tenant_id, count(*), sum(input_tokens)::bigint, sum(output_tokens)::bigint, sum(cost_usd)
  FROM usage_ledger WHERE started_at >= $1 AND started_at < $2 GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked, but for the groups."""

    what: str
    of: UsageOf
    start: datetime | None = None
    end: datetime | None = None


def first_moment() -> datetime:
    """In the middle of a month, so that the requests are in two partitions."""
    return datetime.now(UTC).replace(day=11, hour=0, minute=0, second=0, microsecond=0)


def asks() -> list[Ask]:
    """Everything and a part that begins and ends at the worst moments; of all, and of the busiest."""
    start = first_moment() + timedelta(days=1, hours=11, minutes=29, seconds=59.9)
    end = first_moment() + timedelta(days=28, hours=12, minutes=30, seconds=0.1)
    of = [
        Ask("all", UsageOf()),
        Ask("tenant", UsageOf(tenant_id="tenant-0")),
        Ask("model", UsageOf(global_model_id="model-0")),
        Ask("provider", UsageOf(provider_id="provider-0")),
        Ask("key", UsageOf(key_id="key-0")),
    ]
    odd = [replace(one, what=f"{one.what}, odd ends", start=start, end=end) for one in of]
    return [*of, *odd, Ask("3 hours, odd ends", UsageOf(), end - timedelta(hours=3), end)]


async def fill(url: str, requests: int, models_of_a_key: int) -> None:
    """Generate the requests and their sums."""
    connection = await asyncpg.connect(url)
    begun = time.perf_counter()
    for first in range(0, requests, CHUNK):
        last = min(first + CHUNK, requests) - 1
        await connection.execute(
            GENERATE,
            *(first, last, first_moment(), float(DAYS), float(requests)),
            *(TENANTS, MODELS, PROVIDERS, models_of_a_key),
        )
        print(f"  {last + 1:,} requests, {time.perf_counter() - begun:.0f} s", flush=True)
    for unit, key in UNITS.items():
        await connection.execute(FILL.format(unit=unit, key=key))
    await connection.execute("VACUUM ANALYZE usage_ledger, usage_hour, usage_day")
    for table in ("usage_ledger", "usage_hour", "usage_day"):
        rows = await connection.fetchval(f"SELECT count(*) FROM {table}")
        print(f"  {table}: {rows:,} rows")
    for column in ("tenant_id", "key_id", "global_model_id", "provider_id"):
        found = await connection.fetch(
            f"SELECT {column}, sum(requests) FROM usage_day GROUP BY 1 ORDER BY 2 DESC"
        )
        print(f"  {len(found)} of {column}; {found[0][0]} has {100 * found[0][1] / requests:.1f} %")
    await connection.close()


async def check(url: str, database: Database) -> None:
    """The sums of odd ends are those of the lines. Raises AssertionError."""
    odd = next(one for one in asks() if one.what == "all, odd ends")
    connection = await asyncpg.connect(url)
    plain = await connection.fetch(PLAIN, odd.start, odd.end)
    await connection.close()
    found = await summed(database, odd, ("tenant",))
    columns = ("tenant", "requests", "input_tokens", "output_tokens", "cost_usd")
    assert [tuple(row[name] for name in columns) for row in found] == [tuple(row) for row in plain]
    print(f"  exact: {sum(row['requests'] for row in found):,} requests of {len(found)} tenants")


async def summed(database: Database, ask: Ask, groups: Sequence[str]) -> list[asyncpg.Record]:
    """As the registry does it."""
    period = split(ask.start, ask.end)
    return await database.run(partial(usage, of=ask.of, period=period, groups=groups, at_most=5001))


async def measure(database: Database) -> float:
    """Print the times of all queries; the slowest median of those by a single field, in milliseconds."""
    print(f"\n  median / worst of {RUNS} runs in ms")
    print(f"  {'':20}" + "".join(f"{'+'.join(groups) or 'no group':>15}" for groups in GROUPS))
    slowest = 0.0
    for ask in asks():
        cells = []
        for groups in GROUPS:
            took = []
            for _ in range(RUNS):
                begun = time.perf_counter()
                await summed(database, ask, groups)
                took.append((time.perf_counter() - begun) * 1e3)
            if len(groups) < 2:
                slowest = max(slowest, statistics.median(took))
            cells.append(f"{statistics.median(took):.1f} / {max(took):.1f}")
        print(f"  {ask.what:20}" + "".join(f"{cell:>15}" for cell in cells), flush=True)
    print(f"  slowest median by a single field: {slowest:.1f} ms")
    return slowest


async def run(url: str, requests: int, models_of_a_key: int) -> float:
    """All of it; what `measure` answers."""
    database = Database(url, 2)
    await database.connect()
    try:
        await migrate(database)
        await fill(url, requests, models_of_a_key)
        await check(url, database)
        return await measure(database)
    finally:
        await database.close()


def main() -> None:
    """Generate, check and measure."""
    parser = argparse.ArgumentParser(description="How fast usage is summed.")
    parser.add_argument("--requests", type=int, default=10_000_000)
    parser.add_argument("--models-of-a-key", type=int, default=6, help="6: a few; 40: each key uses all")
    asked = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}, {platform.system()}")
    with tempfile.TemporaryDirectory(prefix="synaxis-bench-") as folder:
        Path(folder).chmod(0o755)
        postgres = PostgresServer(Path(folder) / "postgres", durable=False)
        postgres.start()
        try:
            slowest = asyncio.run(run(postgres.url(), asked.requests, asked.models_of_a_key))
        finally:
            postgres.stop()
    sys.exit(slowest > MOST_MS)


if __name__ == "__main__":
    main()
