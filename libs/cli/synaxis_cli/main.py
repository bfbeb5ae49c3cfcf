"""The command `synaxis`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import aiohttp
import typer

from synaxis_cli.client import AdminClient, AdminError
from synaxis_cli.state import DEFAULT_DIRECTORY, DataDirectory, DirectoryUnusable
from synaxis_cli.up import Options
from synaxis_cli.up import up as run_up

app = typer.Typer(help="Synaxis, the model router.", no_args_is_help=True, add_completion=False)
tenants_app = typer.Typer()
letters_app = typer.Typer()
webhooks_app = typer.Typer()
app.add_typer(tenants_app, name="tenants")
app.add_typer(letters_app, name="dead-letters")
app.add_typer(webhooks_app, name="webhooks")

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="SYNAXIS_DATA_DIR", help="Where `synaxis up` keeps its data."),
]
OwnDataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="As of the command before, and instead of it.")
]
LETTER = typer.Argument(metavar="ID", min=1)


@app.callback()
def synaxis() -> None:
    """Synaxis, the model router."""


@app.command()
def up(
    data_dir: DataDir = DEFAULT_DIRECTORY,
    gateways: Annotated[int, typer.Option(min=1, help="How many gateways share the port.")] = 1,
    registries: Annotated[int, typer.Option(min=1, help="How many registries share the work.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Run the whole system: embedded servers as needed, and the four services."""
    raise typer.Exit(run_up(Options(data_dir, gateways, registries, as_json)))


@app.command()
def models(data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """The global models that are known."""
    for row in _all(data_dir, "/models"):
        typer.echo(f"{row['id']:48} {row['vendor'] or '-':16} {row['status']}")


@app.command()
def providers(
    data_dir: DataDir = DEFAULT_DIRECTORY,
    everybody: Annotated[bool, typer.Option("--all", help="Those that are off, too.")] = False,
) -> None:
    """The providers that are on, and how their last poll ended."""
    for row in _all(data_dir, "/providers"):
        if row["is_on"] or everybody:
            state = "on" if row["is_on"] else f"off: {row['off_reason']}"
            polled = row["last_poll_outcome"] or "never polled"
            typer.echo(f"{row['id']:28} {state:24} {polled:16} {row['base_url'] or '-'}")


@app.command()
def route(model: str, data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """Who would serve a model, in which order and at what cost; and who is out, and why."""
    typer.echo(json.dumps(_ask(data_dir, "POST", "/route", {"model": model}), indent=2))


@tenants_app.callback(invoke_without_command=True)
def tenants(context: typer.Context, data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """The tenants; or, of one, its limits."""
    context.obj = data_dir
    if context.invoked_subcommand is None:
        for row in _all(data_dir, "/tenants"):
            typer.echo(f"{row['id']:32} {row['name']}")


@tenants_app.command("limits")
def tenant_limits(context: typer.Context, tenant: str, data_dir: OwnDataDir = None) -> None:
    """What a tenant may use by the minute, at once and in this month, and what of it is used now."""
    rows = _all(data_dir or context.obj, f"/tenants/{quote(tenant, safe='')}/limits")
    head = ("model", "requests/min", "tokens/min", "at once", "USD this month", "of it", "allowed")
    _table(
        head,
        [
            (
                row["model"],
                _used(row["used_requests"], row["allowed_rpm"]),
                _used(row["used_tokens"], row["allowed_tpm"]),
                _used(row["requests_at_once"], row["allowed_concurrency"]),
                _used(row["spent_usd"], row["monthly_budget_usd"]),
                "-" if row["budget_percent"] is None else f"{row['budget_percent']:g} %",
                "yes" if row["allowed"] else "no",
            )
            for row in rows
        ],
    )


@app.command()
def usage(
    data_dir: DataDir = DEFAULT_DIRECTORY,
    group_by: Annotated[
        str, typer.Option(help="tenant, model, provider, key, day, hour, or several with commas.")
    ] = "",
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only this provider.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key, by its id.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="A date or time; UTC if none is said.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Up to but not including it.")] = None,
) -> None:
    """Exact sums of the ledger: requests, tokens, cost in USD."""
    asked = {
        "group_by": group_by,
        "tenant": tenant,
        "model": model,
        "provider": provider,
        "key": key,
        "from": start,
        "to": end,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    rows = _ask(data_dir, "GET", f"/usage?{query}")["data"]
    groups = [name.strip() for name in group_by.split(",") if name.strip()]
    columns = (*groups, "requests", "input_tokens", "output_tokens", "cost_usd")
    _table(columns, [tuple("-" if row[name] is None else str(row[name]) for name in columns) for row in rows])


@letters_app.callback(invoke_without_command=True)
def dead_letters(context: typer.Context, data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """Messages that could not be handled: list them, send one again, throw one away."""
    context.obj = data_dir
    if context.invoked_subcommand is None:
        _list_letters(data_dir)


@letters_app.command("list")
def list_letters(context: typer.Context, data_dir: OwnDataDir = None) -> None:
    """All of them, newest first, and why each was set aside."""
    _list_letters(data_dir or context.obj)


@letters_app.command("replay")
def replay_letter(
    context: typer.Context, letter: Annotated[int, LETTER], data_dir: OwnDataDir = None
) -> None:
    """Send one to its subject again."""
    done = _ask(data_dir or context.obj, "POST", f"/dead-letters/{letter}/replay")
    typer.echo(f"{letter} was sent to {done['subject']} again")


@letters_app.command("delete")
def delete_letter(
    context: typer.Context, letter: Annotated[int, LETTER], data_dir: OwnDataDir = None
) -> None:
    """Throw one away."""
    _ask(data_dir or context.obj, "DELETE", f"/dead-letters/{letter}")
    typer.echo(f"{letter} is gone")


def _list_letters(data_dir: Path) -> None:
    for row in _all(data_dir, "/dead-letters"):
        typer.echo(f"{row['id']:8} {row['at'][:19]} {row['subject']:32} {row['size']:8} B  {row['reason']}")


@webhooks_app.callback(invoke_without_command=True)
def webhooks(context: typer.Context, data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """Addresses that get events: list them, add one, see what became of deliveries, make them once more."""
    context.obj = data_dir
    if context.invoked_subcommand is None:
        _list_webhooks(data_dir)


@webhooks_app.command("list")
def list_webhooks(context: typer.Context, data_dir: OwnDataDir = None) -> None:
    """All of them, with how many deliveries wait or were given up."""
    _list_webhooks(data_dir or context.obj)


@webhooks_app.command("add")
def add_webhook(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="Where events go, by POST.")],
    event: Annotated[list[str] | None, typer.Option(help="A type, or the beginning of some.")] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Only events of this provider.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only events of this model.")] = None,
    private: Annotated[bool, typer.Option(help="It is at a private address.")] = False,
    data_dir: OwnDataDir = None,
) -> None:
    """Add one. Its secret is shown this once."""
    body = {
        "url": url,
        "events": event or [],
        "providers": provider or [],
        "models": model or [],
        "allow_private": private,
    }
    made = _ask(data_dir or context.obj, "POST", "/webhooks", body)
    typer.echo(f"{made['id']}\nsecret {made['secret']}")


@webhooks_app.command("delete")
def delete_webhook(context: typer.Context, webhook: str, data_dir: OwnDataDir = None) -> None:
    """Remove one, with what was still to be delivered."""
    _ask(data_dir or context.obj, "DELETE", f"/webhooks/{webhook}")
    typer.echo(f"{webhook} is gone")


@webhooks_app.command("deliveries")
def list_deliveries(
    context: typer.Context,
    webhook: str,
    status: Annotated[str | None, typer.Option(help="pending, delivered or failed.")] = None,
    data_dir: OwnDataDir = None,
) -> None:
    """What has become of its deliveries, the newest first."""
    query = "" if status is None else f"?{urlencode({'status': status})}"
    for row in _all(data_dir or context.obj, f"/webhooks/{webhook}/deliveries{query}"):
        typer.echo(
            f"{row['id']:8} {row['created_at'][:19]} {row['type']:24} {row['status']:10} "
            f"{row['attempts']:3} attempts  {row['last_error'] or ''}"
        )


@webhooks_app.command("replay")
def replay_webhook(
    context: typer.Context,
    webhook: str,
    delivery: Annotated[int | None, typer.Option(help="Only this one.")] = None,
    since: Annotated[
        str | None, typer.Option(help="All since this time, such as 2026-11-23T10:00:00Z.")
    ] = None,
    data_dir: OwnDataDir = None,
) -> None:
    """Make deliveries once more: one of them, or all since a time."""
    if (delivery is None) == (since is None):
        raise typer.BadParameter("say either --delivery or --since")
    path = (
        f"/webhooks/{webhook}/replay"
        if delivery is None
        else f"/webhooks/{webhook}/deliveries/{delivery}/replay"
    )
    done = _ask(data_dir or context.obj, "POST", path, {"since": since} if delivery is None else None)
    typer.echo(f"{done['replayed']} to be delivered again")


def _list_webhooks(data_dir: Path) -> None:
    for row in _all(data_dir, "/webhooks"):
        state = "on" if row["enabled"] else f"off: {row['off_reason']}"
        typer.echo(
            f"{row['id']} {row['pending']:6} waiting {row['failed']:6} given up  {row['url']}  {state}"
        )


@app.command()
def jobs(data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """The scheduled jobs and their last runs."""
    typer.echo(json.dumps(_ask(data_dir, "GET", "/jobs"), indent=2))


def _used(used: Any, allowed: Any) -> str:
    return f"{used} / {'-' if allowed is None else allowed}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as what is in them; the first line says what they are."""
    widths = [max(len(line[place]) for line in (head, *rows)) for place in range(len(head))]
    for line in (head, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _connection(data_dir: Path) -> tuple[str, str]:
    """Where the admin API is and its key: as the environment says, else as `synaxis up` left it.

    Raises DirectoryUnusable.
    """
    url, key = os.environ.get("SYNAXIS_URL"), os.environ.get("SYNAXIS_ADMIN_KEY")
    if url and key:
        return url.rstrip("/"), key
    try:
        kept = DataDirectory(data_dir).read()
    except FileNotFoundError as error:
        raise DirectoryUnusable(
            f"nothing was started with {data_dir}: run `synaxis up`, or set SYNAXIS_URL and SYNAXIS_ADMIN_KEY"
        ) from error
    return (url or kept.url or "http://127.0.0.1:8080").rstrip("/"), key or kept.admin_key


def _ask(data_dir: Path, method: str, path: str, body: Any = None) -> Any:
    async def ask() -> Any:
        async with AdminClient(*_connection(data_dir)) as client:
            return await client.ask(method, path, body)

    return _run(ask())


def _all(data_dir: Path, path: str) -> list[Any]:
    async def ask() -> list[Any]:
        async with AdminClient(*_connection(data_dir)) as client:
            return await client.all(path)

    return list(_run(ask()))


def _run(asking: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(asking)
    except (AdminError, DirectoryUnusable, aiohttp.ClientError, OSError) as error:
        typer.echo(f"synaxis: {error or type(error).__name__}", err=True)
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
