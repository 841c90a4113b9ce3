"""Fixtures of the tests that send notifications by the real process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from arcentra_server.notify_process import NotifyProcesses, NotifySettings
from tests.support.hook_server import make_certificate

Start = Callable[[NotifySettings], NotifyProcesses]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
async def _shared() -> AsyncIterator[dict[NotifySettings, NotifyProcesses]]:
    """Processes by their settings: starting one takes seconds."""
    shared: dict[NotifySettings, NotifyProcesses] = {}
    yield shared
    for processes in shared.values():
        await processes.aclose()


@pytest.fixture
def start(certificate: Path, _shared: dict[NotifySettings, NotifyProcesses], monkeypatch: pytest.MonkeyPatch) -> Start:
    """Answers processes that trust the certificate of the local servers; the same settings answer the same ones."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return lambda settings: _shared.setdefault(settings, NotifyProcesses(settings))


@pytest.fixture
async def fresh(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """As `start`, for processes that nobody else uses."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    started: list[NotifyProcesses] = []

    def make(settings: NotifySettings) -> NotifyProcesses:
        started.append(NotifyProcesses(settings))
        return started[-1]

    yield make
    for processes in started:
        await processes.aclose()
