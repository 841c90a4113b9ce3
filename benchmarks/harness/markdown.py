"""Results as a Markdown table, and its place between two markers of a document."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- results: begin (written by `python -m benchmarks`) -->"
END = "<!-- results: end -->"

HEAD = """| scenario | measure | limit | server | ratio | bar | aim | CPU µs an operation, server (limit) | PostgreSQL (limit) | foreign, steal | |
|---|---|---|---|---|---|---|---|---|---|---|"""


def table(documents: Sequence[Mapping[str, Any]]) -> str:
    """One line a scenario, and one more for each of its bars beyond the first; then where it was measured."""
    lines = [HEAD]
    for document in documents:
        lines += rows(document)
    places = sorted({place(document) for document in documents})
    return "\n".join([*lines, "", *places])


def rows(document: Mapping[str, Any]) -> list[str]:
    """The lines of one scenario."""
    limit, server, unit = document["limit"], document["server"], document["unit"]
    ratio_bar, *others = sorted(document["bars"], key=lambda bar: bar["figure"] != "ratio")
    cells = [
        f"`{document['scenario']}`",
        document["measure"],
        f"{spread(limit)} {unit}",
        f"{spread(server)} {unit}",
        spread(document["ratio"]),
        bound(ratio_bar, "bar"),
        bound(ratio_bar, "aim"),
        f"{server['cpu']['server_us']:,.0f} ({limit['cpu']['server_us']:,.0f})",
        f"{server['cpu']['postgres_us']:,.0f} ({limit['cpu']['postgres_us']:,.0f})",
        f"{server['cpu']['foreign_percent']:.0f} %, {server['cpu']['steal_percent']:.0f} %",
        "pass" if document["passed"] else "**FAIL**",
    ]
    lines = [line_of(cells)]
    for bar in others:
        outcome = "pass" if bar["passed"] else "**FAIL**"
        value = number(bar["value"])
        lines.append(
            line_of(["", bar["figure"], "", value, "", bound(bar, "bar"), bound(bar, "aim"), "", "", "", outcome])
        )
    return lines


def line_of(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def spread(side: Mapping[str, float]) -> str:
    """Median and, in brackets, least and greatest."""
    digits = digits_of(side["median"])
    return f"{side['median']:,.{digits}f} ({side['min']:,.{digits}f} to {side['max']:,.{digits}f})"


def number(value: float) -> str:
    """A single value."""
    return f"{value:,.{digits_of(value)}f}"


def digits_of(value: float) -> int:
    """How many digits after the point tell a value of its size."""
    if value >= 100 or value == 0:
        return 0
    return 2 if value >= 0.1 else 3


def bound(bar: Mapping[str, Any], which: str) -> str:
    """A bar or an aim."""
    if bar[which] is None:
        return "-"
    return f"{'≤' if bar['bound'] == 'at most' else '≥'} {bar[which]:g}"


def place(document: Mapping[str, Any]) -> str:
    """Where and with what a result was measured."""
    machine, versions = document["machine"], document["versions"]
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured {document['date']} on {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gib']} GiB, {machine['kernel']}, {machine['filesystem']}; {software}."
    )


def write_section(path: Path, section: str) -> None:
    """Replace what stands between the markers of a document.

    Raises:
        ValueError: the document lacks a marker.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no markers for the results")
    path.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}", encoding="utf-8")
