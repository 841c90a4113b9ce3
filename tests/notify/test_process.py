"""The process that sends notifications, as it is, against servers of this machine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from arcentra_server.domain.deliveries import AppriseMessage, Delivery, Message, WebhookMessage
from arcentra_server.notify_process import NotifyProcesses, NotifySettings
from tests.notify.conftest import Start
from tests.support.hook_server import HookServer, hook_server, mail_server
from tests.support.processes import until

pytestmark = pytest.mark.slow

NOT_ALLOWED = "destination not allowed"
LOCAL = NotifySettings(allow=("127.0.0.0/8", "::1"), seconds=2)


def hook(
    port: int, path: str = "/200", *, host: str = "localhost", scheme: str = "https", **headers: str
) -> WebhookMessage:
    return WebhookMessage(f"{scheme}://{host}:{port}{path}", '{"a":1}', {"Content-Type": "application/json", **headers})


def service(url: str) -> AppriseMessage:
    return AppriseMessage(url, "the title", "the text", markdown=False, failed=True)


@asynccontextmanager
async def allowed(start: Start, certificate: Path) -> AsyncIterator[tuple[HookServer, NotifyProcesses]]:
    async with hook_server(certificate) as server:
        yield server, start(LOCAL)


async def outcome(processes: NotifyProcesses, message: Message) -> tuple[bool, str, bool]:
    delivery = await processes.send(message)
    return delivery.delivered, delivery.error, delivery.permanent


async def test_webhook_arrives(start: Start, certificate: Path) -> None:
    async with allowed(start, certificate) as (server, processes):
        delivery = await processes.send(hook(server.port, "/200?x=1", **{"X-Arcentra-Event": "job.failure"}))
    assert delivery == Delivery(delivered=True, duration_ms=delivery.duration_ms)
    assert delivery.duration_ms > 0
    [request] = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/200?x=1", b'{"a":1}')
    assert request.headers["host"] == f"localhost:{server.port}"
    assert (request.headers["x-arcentra-event"], request.headers["user-agent"]) == ("job.failure", "Arcentra")


async def test_private_destinations_are_refused_without_a_word_sent(start: Start, certificate: Path) -> None:
    async with hook_server(certificate) as server:
        processes = start(NotifySettings())
        for host in ("localhost", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:127.0.0.1]", "[::1]"):
            assert await outcome(processes, hook(server.port, host=host)) == (False, NOT_ALLOWED, True), host
        for url in (
            f"jsons://127.0.0.1:{server.port}/",
            f"mailtos://localhost:{server.port}/?from=a@b.example&to=a@b.example",
        ):
            assert await outcome(processes, service(url)) == (False, NOT_ALLOWED, True), url
    assert server.connections == 0


async def test_another_port_of_an_allowed_host_is_refused(start: Start, certificate: Path) -> None:
    async with hook_server(certificate) as server, hook_server(certificate) as other:
        processes = start(NotifySettings(allow=(f"localhost:{server.port}",)))
        assert (await processes.send(hook(server.port))).delivered
        assert await outcome(processes, hook(other.port)) == (False, NOT_ALLOWED, True)
    assert other.connections == 0


async def test_http_is_refused_unless_it_is_allowed(start: Start) -> None:
    async with hook_server() as server:
        message = hook(server.port, scheme="http")
        strict = start(LOCAL)
        assert await outcome(strict, message) == (False, NOT_ALLOWED, True)
        plain = f"json://localhost:{server.port}/200"
        error = f"{NOT_ALLOWED}: the service is not reached by TLS"
        assert await outcome(strict, service(plain)) == (False, error, True)
        assert server.connections == 0
        lenient = start(replace(LOCAL, allow_http=True))
        assert await outcome(lenient, message) == (True, "", False)
        assert await outcome(lenient, service(plain)) == (True, "", False)


async def test_certificates_are_checked_whatever_the_address_says(
    fresh: Start, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with allowed(fresh, certificate) as (server, processes):
        error = "no secure connection: the certificate is not trusted, or TLS failed"
        assert await outcome(processes, hook(server.port)) == (False, error, False)
        lax = service(f"jsons://localhost:{server.port}/200?verify=no")
        assert await outcome(processes, lax) == (False, error, False)
    assert server.requests == []


@pytest.mark.parametrize("status", [204, 301, 302, 400, 404, 500])
async def test_only_a_good_status_is_a_delivery(start: Start, certificate: Path, status: int) -> None:
    async with allowed(start, certificate) as (server, processes):
        expected = (True, "", False) if status == 204 else (False, f"the server answered with status {status}", False)
        assert await outcome(processes, hook(server.port, f"/{status}")) == expected
        if status >= 400:
            assert await outcome(processes, service(f"jsons://localhost:{server.port}/{status}")) == expected


async def test_redirects_are_followed_within_limits(start: Start, certificate: Path) -> None:
    async with allowed(start, certificate) as (server, processes):
        path = "/200"
        for _ in range(3):
            path = f"/307/{quote(path, safe='')}"
        assert await outcome(processes, hook(server.port, path, Authorization="Bearer x")) == (True, "", False)
        assert [request.method for request in server.requests] == ["POST"] * 4
        assert all(request.body == b'{"a":1}' for request in server.requests)
        assert server.requests[-1].headers["authorization"] == "Bearer x"
        path = f"/307/{quote(path, safe='')}"
        assert await outcome(processes, hook(server.port, path)) == (False, "more than 3 redirects", False)


async def test_credentials_do_not_follow_to_another_server(start: Start, certificate: Path) -> None:
    async with hook_server(certificate) as server, hook_server(certificate) as other:
        processes = start(LOCAL)
        path = "/308/" + quote(f"https://localhost:{other.port}/200", safe="")
        headers = {"Authorization": "Bearer x", "X-Arcentra-Event": "job.failure"}
        assert (await processes.send(hook(server.port, path, **headers))).delivered
    assert "authorization" in server.requests[0].headers
    assert "authorization" not in other.requests[0].headers
    assert other.requests[0].headers["x-arcentra-event"] == "job.failure"


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("target", ["https://127.0.0.1:{port}/200", "http://localhost:{allowed}/200"])
async def test_redirect_to_what_is_not_allowed_is_refused(
    start: Start, certificate: Path, status: int, target: str
) -> None:
    """For webhooks, and for services whose library follows redirects by itself."""
    async with hook_server(certificate) as server, hook_server(certificate) as inner:
        processes = start(NotifySettings(allow=(f"localhost:{server.port}",)))
        path = f"/{status}/" + quote(target.format(port=inner.port, allowed=server.port), safe="")
        if status == 307:
            assert await outcome(processes, hook(server.port, path)) == (False, NOT_ALLOWED, True)
        url = f"jsons://localhost:{server.port}{path}"
        assert await outcome(processes, service(url)) == (False, NOT_ALLOWED, True)
    assert inner.connections == 0


@pytest.mark.parametrize("path", ["/silent", "/drip"])
async def test_slow_server_costs_its_time_and_no_more(start: Start, certificate: Path, path: str) -> None:
    async with hook_server(certificate) as server:
        processes = start(LOCAL)
        for message in (hook(server.port, path), service(f"jsons://localhost:{server.port}{path}")):
            delivery = await processes.send(message)
            assert (delivery.delivered, delivery.error, delivery.permanent) == (False, "no answer in time", False)
            assert 1_900 <= delivery.duration_ms < 4_000
        assert (await processes.send(hook(server.port))).delivered


async def test_large_answer_is_not_read(start: Start, certificate: Path) -> None:
    async with allowed(start, certificate) as (server, processes):
        assert await outcome(processes, hook(server.port, "/large")) == (
            False,
            "the answer is larger than 1 MiB",
            False,
        )


async def test_unknown_host_and_closed_port(start: Start, certificate: Path) -> None:
    async with allowed(start, certificate) as (server, processes):
        port = server.port
        unknown = hook(443, host="no-such-host.invalid")
        assert await outcome(processes, unknown) == (False, "there is no host of this name", False)
    assert await outcome(processes, hook(port)) == (False, "cannot connect", False)


@pytest.mark.parametrize(
    "url",
    [
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/?template={file}",
        "workflows://localhost:{port}/643e69f/signature?template={file}",
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js/?template={file}",
    ],
)
async def test_no_file_of_the_machine_is_read_for_a_message(
    start: Start, certificate: Path, tmp_path: Path, url: str
) -> None:
    file = tmp_path / "secret.json"
    file.write_text(json.dumps({"type": "message", "text": "hunter2", "@type": "x", "@context": "y"}))
    async with allowed(start, certificate) as (server, processes):
        assert not (await processes.send(service(url.format(file=file, port=server.port)))).delivered
    assert all(b"hunter2" not in request.body for request in server.requests)


@pytest.mark.parametrize("url", ["syslog://", "no-such://x", "slack://x", "mailtos://", "https://localhost/", "x://"])
async def test_addresses_that_apprise_does_not_take(start: Start, url: str) -> None:
    error = "apprise does not know this address, or something in it is missing"
    assert await outcome(start(LOCAL), service(url)) == (False, error, True)


@pytest.mark.parametrize("url", ["https://a b/", "https://localhost:x/", "https://", "https://../"])
async def test_broken_address_of_a_webhook_is_an_answer(start: Start, url: str) -> None:
    assert not (await start(LOCAL).send(WebhookMessage(url, "{}", {}))).delivered


async def test_mail_goes_over_tls(start: Start, certificate: Path) -> None:
    async with mail_server(certificate) as server:
        processes = start(LOCAL)
        url = (
            f"mailtos://ci:pass@localhost:{server.port}/?smtp=localhost&mode=starttls&from=ci@b.example&to=a@b.example"
        )
        assert await outcome(processes, service(f"{url}&format=text")) == (True, "", False)
        assert server.logins == [("\0ci\0pass", True)]
        assert "Subject: the title" in server.mails[0]
        assert "the text" in server.mails[0]
        wrong = url.replace("pass", "wrong")
        assert await outcome(processes, service(wrong)) == (
            False,
            "the mail server did not accept user and password",
            False,
        )


async def test_no_password_is_sent_to_a_mail_server_without_tls(start: Start, certificate: Path) -> None:
    async with mail_server(certificate, offers_tls=False) as server:
        processes = start(LOCAL)
        url = f"mailtos://ci:pass@localhost:{server.port}/?smtp=localhost&from=ci@b.example&to=a@b.example"
        assert await outcome(processes, service(f"{url}&mode=starttls")) == (
            False,
            "no secure connection to the mail server",
            False,
        )
        error = f"{NOT_ALLOWED}: the service is not reached by TLS"
        assert await outcome(processes, service(f"{url}&mode=insecure")) == (False, error, True)
    assert server.logins == []


async def test_killed_process_is_an_answer_and_the_next_message_gets_another(fresh: Start, certificate: Path) -> None:
    async with allowed(fresh, certificate) as (server, processes):
        assert (await processes.send(hook(server.port))).delivered
        [first] = processes._idle
        os.kill(first.pid, signal.SIGKILL)
        await first.wait()
        assert (await processes.send(hook(server.port))).delivered
        [second] = processes._idle
        os.kill(second.pid, signal.SIGSTOP)  # it answers nothing, whatever it is asked
        processes._settings = NotifySettings(patience=0.5)
        assert await outcome(processes, hook(server.port)) == (False, "no answer in time", False)
        await until(lambda: second.returncode is not None)
        assert processes._idle == []


async def test_process_has_none_of_the_servers_environment(
    fresh: Start, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCENTRA_DATABASE__URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:9")
    async with allowed(fresh, certificate) as (server, processes):
        assert (await processes.send(hook(server.port))).delivered
        [process] = processes._idle
        names = {entry.partition("=")[0] for entry in Path(f"/proc/{process.pid}/environ").read_text().split("\0")}
    assert names <= {"", "PATH", "LANG", "LD_LIBRARY_PATH", "SSL_CERT_FILE"}


async def test_errors_hold_nothing_of_addresses_and_answers(start: Start, certificate: Path) -> None:
    async with allowed(start, certificate) as (server, processes):
        for path in ("/500/hunter2", "/404", "/junk", "/large"):
            for message in (hook(server.port, path), service(f"jsons://u:hunter2@localhost:{server.port}{path}")):
                delivery = await processes.send(message)
                assert not delivery.delivered
                for secret in ("hunter2", "localhost", str(server.port), "only the server"):
                    assert secret not in delivery.error
