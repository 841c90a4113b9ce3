"""`arcentra pipeline validate` and `schema`."""

import json
from pathlib import Path

from tests.cli.conftest import Cli

VALID = """good.yaml:2:3: warning: variables['A_KEY']: looks like a secret
good.yaml: pipeline team/demo is valid: 4 jobs, 1 step
"""
FAULTY = """bad.yaml:7:9: jobs[1].name: bad name
bad.yaml: is empty
bad.yaml: 2 faults
"""


async def test_faults_and_warnings_are_lines_with_places(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("demo")
    (tmp_path / "bad.yaml").write_text("faulty")
    result = await cli.run("pipeline", "validate", "-f", "good.yaml", "-n", "team")
    assert (result.code, result.out, result.err) == (0, VALID, "")
    result = await cli.run("pipeline", "validate", "-f", "bad.yaml", "-f", "good.yaml", "-n", "team")
    assert (result.code, result.out, result.err) == (2, FAULTY + VALID, "")


async def test_programs_get_the_answer_itself(cli: Cli) -> None:
    result = await cli.run("pipeline", "validate", "-f", "-", "-o", "json", stdin="faulty")
    assert result.code == 2
    answer = json.loads(result.out)
    assert (answer["valid"], answer["faults"][0]["line"], answer["faults"][0]["path"]) == (False, 7, "jobs[1].name")


async def test_a_file_that_is_not_there_is_named(cli: Cli) -> None:
    result = await cli.run("pipeline", "validate", "-f", "none.yaml")
    assert (result.code, result.err) == (2, "error: cannot read none.yaml: No such file or directory\n")


async def test_the_schema_is_printed_as_it_is(cli: Cli) -> None:
    result = await cli.run("pipeline", "schema")
    assert (result.code, result.out) == (0, '{"title": "of the fake"}\n')
