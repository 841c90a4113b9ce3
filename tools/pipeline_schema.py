"""Write, or check, docs/pipeline.schema.json: the JSON Schema of pipeline documents."""

from __future__ import annotations

import argparse
from pathlib import Path

from arcentra_server.rpc.convert.schema import schema_text

FILE = Path(__file__).parents[1] / "docs" / "pipeline.schema.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the file instead of comparing it")
    if parser.parse_args().write:
        FILE.write_text(schema_text(), encoding="utf-8")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == schema_text():
        return 0
    print(f"{FILE.relative_to(FILE.parents[1])} differs: run python -m tools.pipeline_schema --write")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
