"""Write the settings table of the README, or check that it is what the settings classes say."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from synaxis_common.settings import OutwardSettings, ServiceSettings
from synaxis_discovery.settings import DiscoverySettings
from synaxis_gateway.settings import GatewaySettings
from synaxis_registry.settings import RegistrySettings
from synaxis_sync.settings import SyncSettings

README = Path(__file__).parent.parent / "README.md"
CLASSES: dict[str, type[ServiceSettings]] = {
    "all": ServiceSettings,
    "gateway, discovery, sync": OutwardSettings,
    "gateway": GatewaySettings,
    "registry": RegistrySettings,
    "sync": SyncSettings,
    "discovery": DiscoverySettings,
}
BEGIN, END = "<!-- settings: made by `make documents` -->", "<!-- end of settings -->"


def settings_table() -> str:
    """The table in Markdown, a row a variable."""
    rows = ["| variable | read by | default | what it is |", "| --- | --- | --- | --- |"]
    for reader, settings in CLASSES.items():
        inherited = {name for base in settings.__bases__ for name in getattr(base, "model_fields", ())}
        for name, field in settings.model_fields.items():
            if name in inherited:
                continue
            shown = _shown(field.get_default(call_default_factory=True, validated_data={}))
            rows.append(f"| `SYNAXIS_{name.upper()}` | {reader} | {shown} | {field.description} |")
    return "\n".join([BEGIN, *rows, END])


def _shown(default: object) -> str:
    """A default as the table has it; an empty secret is one that has to be given."""
    if isinstance(default, SecretStr):
        default = default.get_secret_value() or PydanticUndefined
    if default is PydanticUndefined:
        return "required"
    return "empty" if default == "" else f"`{default}`"


def main() -> int:
    """Exit status 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    wanted = between.sub(lambda _: settings_table(), text)
    if arguments.write:
        README.write_text(wanted, encoding="utf-8")
        return 0
    if text != wanted:
        print("the settings table in README.md is not what the settings say: run `make documents`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
