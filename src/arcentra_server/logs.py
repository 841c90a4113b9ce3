"""The log of the server itself: events with ids as fields, on stderr."""

from __future__ import annotations

import logging
import sys

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, style: str) -> None:
    """Set the log up: `console` for people, `json` for programs, `auto` for whichever stderr is."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    # Never the values of variables: they hold tokens, environments and addresses with passwords.
    frames = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [frames]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def say(text: str) -> None:
    """Tell the person at the terminal something; stdout stays for what programs read."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is the one place that talks to people
