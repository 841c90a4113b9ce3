"""Definitions written as people write them."""

from __future__ import annotations

import textwrap

from arcentra_server.domain.definition import PipelineSpec
from arcentra_server.rpc.convert.document import read_pipeline


def spec_of(text: str) -> PipelineSpec:
    """Return the definition of a document that needs no name."""
    document = textwrap.dedent(text)
    return read_pipeline(document if document.lstrip().startswith("name:") else f"name: test\n{document}").spec
