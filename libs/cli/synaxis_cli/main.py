"""The command `synaxis`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from synaxis_cli.client import AdminClient, AdminError
from synaxis_cli.state import DEFAULT_DIRECTORY, DataDirectory, DirectoryUnusable
from synaxis_cli.up import Options
from synaxis_cli.up import up as run_up

app = typer.Typer(help="Synaxis, the model router.", no_args_is_help=True, add_completion=False)

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="SYNAXIS_DATA_DIR", help="Where `synaxis up` keeps its data."),
]


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


@app.command()
def tenants(data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """The tenants."""
    for row in _all(data_dir, "/tenants"):
        typer.echo(f"{row['id']:32} {row['name']}")


@app.command()
def jobs(data_dir: DataDir = DEFAULT_DIRECTORY) -> None:
    """The scheduled jobs and their last runs."""
    typer.echo(json.dumps(_ask(data_dir, "GET", "/jobs"), indent=2))


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
