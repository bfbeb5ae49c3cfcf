"""Write the AsyncAPI document, or check that the committed one is what the code says and breaks nobody."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scripts.contract_changes import broken
from synaxis_common.channels import asyncapi_document

DOCUMENT = Path(__file__).parent.parent / "docs" / "asyncapi.json"
RELEASED = DOCUMENT.with_name("asyncapi.released.json")
"""Of the last release: copied from `DOCUMENT` when the next one is made, and never else."""


def main() -> int:
    """Exit status 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = json.dumps(asyncapi_document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if arguments.write:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    if DOCUMENT.read_text(encoding="utf-8") != text:
        print(f"{DOCUMENT.name} is not what the code says: run `make documents` and look at the difference")
        return 1
    problems = broken(json.loads(RELEASED.read_text(encoding="utf-8")), asyncapi_document())
    for problem in problems:
        print(f"breaks who was built on {RELEASED.name}: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
