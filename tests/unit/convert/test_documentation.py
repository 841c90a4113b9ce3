"""What docs/ and examples/ show is read without a fault, and what can be written is documented."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcentra_server.domain.matrix import cell_name, cells
from arcentra_server.rpc.convert import shapes
from arcentra_server.rpc.convert.document import examine
from arcentra_server.rpc.convert.document_reader import Reader
from arcentra_server.rpc.convert.shapes import JOB, PIPELINE, Shape

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs" / "pipelines.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
STEP = {"name": "step", "uses": "shell"}


def blocks() -> Iterator[Any]:
    """Yield the YAML of every page, each with the place where it stands."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, found.start()) + 1
            yield pytest.param(found[1], id=f"{page.name}:{line}")


def whole(text: str) -> str:
    """Return a document: a part of one, of a pipeline or of a job, or some steps, is put into one."""
    reader = Reader(text)
    data = reader.value(reader.root, "")
    if isinstance(data, list):
        data = {"steps": data}
    if data.keys() & {"jobs", "stages"}:
        return text
    of_pipeline = {key: value for key, value in data.items() if key in PIPELINE.keys and key not in JOB.keys}
    of_job = {key: value for key, value in data.items() if key not in of_pipeline}
    return json.dumps({"name": "part", **of_pipeline, "jobs": [{"name": "job", "steps": [STEP], **of_job}]})


@pytest.mark.parametrize("text", list(blocks()))
def test_what_the_documentation_shows_is_sound(text: str) -> None:
    assert [fault.shown for fault in examine(whole(text)).faults] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_sound(path: Path) -> None:
    assert [fault.shown for fault in examine(path.read_text(encoding="utf-8")).faults] == []


@pytest.mark.parametrize(
    "shape", [shape for shape in vars(shapes).values() if isinstance(shape, Shape)], ids=lambda shape: shape.name
)
def test_every_key_is_in_the_reference(shape: Shape) -> None:
    reference = REFERENCE.read_text(encoding="utf-8")
    assert [key for key in shape.keys if f"`{key}`" not in reference and f"`{key}:" not in reference] == []


def test_the_cells_that_the_reference_names_are_those_of_its_matrix() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    part = re.search(r"^```yaml\n(matrix:.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert part is not None
    ((_, job),) = examine(whole(part[1])).new.spec.jobs()
    assert job.matrix is not None
    shown = [cell_name("", cell).strip() for cell in cells(job.matrix)]
    said = re.search(r"^This makes (.*?)\. Names", text, re.DOTALL | re.MULTILINE)
    assert said is not None
    assert re.findall(r"`(\(.*?\))`", said[1]) == shown
