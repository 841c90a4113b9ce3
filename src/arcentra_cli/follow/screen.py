"""Where a followed run is shown: plain lines for a program, a live status line below the log for a person."""

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from arcentra_cli.follow.story import Progress, Say
from arcentra_cli.render import words
from arcentra_cli.terminal import visible, without_escapes

_LABEL_STYLES = ("cyan", "green", "yellow", "blue", "magenta", "bright_cyan", "bright_green", "bright_blue")
_NAMES_SHOWN = 4


class Screen(Protocol):
    """Shows one followed run. Every call writes whole lines, so lines of different steps never mix."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def log(self, label: str, lines: Sequence[str]) -> None:
        """Show lines of a step's log."""

    def say(self, change: Say) -> None:
        """Show a change of state."""

    def notice(self, text: str) -> None:
        """Tell something about the following itself."""

    def tick(self) -> None:
        """Bring what shows the time up to date."""


def said(change: Say) -> str:
    """A change of state as one line."""
    return visible(" ".join(part for part in ("==>", change.subject, change.status, change.more) if part))


def prefixed(label: str, lines: Sequence[str]) -> str:
    """Log lines as text, each behind the step it is from."""
    prefix = f"{visible(label)} | " if label else ""
    return "".join(f"{prefix}{without_escapes(line, keep_styles=False)}\n" for line in lines)


class PlainScreen:
    """Lines on `out`; notices on stderr."""

    def __init__(self, out: TextIO, *, states: bool = True) -> None:
        self._out = out
        self._states = states

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.flush()

    def log(self, label: str, lines: Sequence[str]) -> None:
        self._out.write(prefixed(label, lines))
        self._out.flush()

    def say(self, change: Say) -> None:
        if self._states:
            print(said(change), file=self._out, flush=True)

    def notice(self, text: str) -> None:
        print(visible(text), file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Nothing here shows the time."""


class LiveScreen:
    """Coloured lines above a status line that is redrawn in place."""

    def __init__(self, console: Console, progress: Callable[[], Progress], *, states: bool = True) -> None:
        self._console = console
        self._progress = progress
        self._states = states
        self._started = time.monotonic()
        self._live = Live(
            console=console, auto_refresh=False, transient=True, get_renderable=self._render, redirect_stderr=False
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def log(self, label: str, lines: Sequence[str]) -> None:
        prefix = Text(f"{visible(label)} | " if label else "", style=label_style(label))
        text = Text("\n").join(
            Text.assemble(prefix, Text.from_ansi(without_escapes(line, keep_styles=True))) for line in lines
        )
        if lines:
            self._console.print(text, soft_wrap=True)

    def say(self, change: Say) -> None:
        if self._states:
            status = Text(change.status, style=words.status_style(change.status))
            subject, more = Text(visible(change.subject), style="bold"), Text(visible(change.more))
            parts = [Text("==>", style="bold"), subject, status, more]
            self._console.print(Text(" ").join(part for part in parts if part), soft_wrap=True)

    def notice(self, text: str) -> None:
        if sys.stderr.isatty():  # through the console, or it would land in the status line
            self._console.print(Text(visible(text), style="yellow"), soft_wrap=True)
        else:
            print(visible(text), file=sys.stderr, flush=True)

    def tick(self) -> None:
        self._live.refresh()

    def _render(self) -> Group:
        return Group(status_line(self._progress(), time.monotonic() - self._started))


def label_style(label: str) -> str:
    """A colour of its own for each label, the same every time."""
    return _LABEL_STYLES[sum(label.encode()) % len(_LABEL_STYLES)]


def status_line(progress: Progress, elapsed_s: float) -> Table:
    """The progress of jobs, the running steps and the time since the following began."""
    grid = Table.grid(padding=(0, 1))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    names, style = (progress.active, "") if progress.active else (progress.waiting, "dim")
    shown = ", ".join(names[:_NAMES_SHOWN]) + (f" +{len(names) - _NAMES_SHOWN}" if len(names) > _NAMES_SHOWN else "")
    failed = Text(f", {progress.failed} failed", style="red") if progress.failed else Text("")
    grid.add_row(
        ProgressBar(total=max(progress.total, 1), completed=progress.completed, width=20),
        Text.assemble(f"{progress.completed}/{progress.total} jobs", failed),
        Text(words.duration(int(elapsed_s) * 1000 if elapsed_s >= 1 else 0), style="dim"),
        Text.assemble(words.styled(progress.status), " ", (visible(shown), style)),
    )
    return grid
