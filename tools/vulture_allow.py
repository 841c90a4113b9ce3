"""Names that a framework calls or reads, so that no line of ours uses them. Each says who does."""

from __future__ import annotations

ALLOWED: dict[str, str] = {
    "settings_customise_sources": "pydantic-settings asks it which sources count",
    "get_reset_query": "asyncpg asks it what to run on a connection that goes back to the pool",
    "intercept_service": "grpc.aio calls it for each call",
    "capture_signals": "uvicorn calls it around its serving",
    "job_outcome": "the definition, beside which the ledger's evaluation step by step is tested",
    "run_outcome": "the definition, beside which the ledger's evaluation step by step is tested",
    "pytestmark": "pytest reads it from a module",
    "do_GET": "http.server calls it for a request",
    "do_POST": "http.server calls it for a request",
    "log_message": "http.server calls it for each answer",
    "pytest_collection_modifyitems": "pytest calls it with what it found",
    "pytest_generate_tests": "pytest calls it with what it is to give values",
    "teardown": "hypothesis calls it at the end of a state machine",
}
