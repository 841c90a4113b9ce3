"""Small servers at the far end of notifications: HTTP with or without TLS, and mail."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_ANSWER = "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n"


def make_certificate(folder: Path) -> Path:
    """Write a certificate for localhost, with its key, that signs itself; return the file, which is to be trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=36_500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "localhost.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return file


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@dataclass(frozen=True, slots=True)
class Request:
    """What a server was sent; names of headers in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class HookServer:
    """A server whose paths say how it answers.

    `/STATUS` answers so; `/STATUS/LOCATION` redirects there; `/large` answers 2 MiB; `/drip` a byte now and then, without
    an end; `/silent` nothing at all.
    """

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            request = await _read(reader)
            self.requests.append(request)
            self.asked.set()
            await self._answer(request.path, reader, writer)

    async def _answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word, _, location = path[1:].partition("?")[0].partition("/")
        if word == "silent":
            await reader.read()  # until the other side gives up
        elif word == "drip":
            writer.write(_ANSWER.format(status=200, length=1_000_000, more="").encode())
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        if not await reader.read(1):
                            return
        elif word == "large":
            writer.write(_ANSWER.format(status=200, length=2 * 1024 * 1024, more="").encode())
            writer.write(b"x" * (2 * 1024 * 1024))
        else:
            more = f"Location: {unquote(location)}\r\n" if location else ""
            body = b"what only the server knows"
            writer.write(_ANSWER.format(status=word, length=len(body), more=more).encode() + body)
        await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Request:
    method, path, _ = (await reader.readline()).decode().split()
    headers = {}
    while line := (await reader.readline()).decode().strip():
        name, _, text = line.partition(":")
        headers[name.lower()] = text.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, body)


@asynccontextmanager
async def hook_server(certificate: Path | None = None) -> AsyncIterator[HookServer]:
    """Run a server on 127.0.0.1, with TLS if there is a certificate."""
    hooks = HookServer()
    context = tls_of(certificate) if certificate else None
    async with _listening(hooks.serve, context) as hooks.port:
        yield hooks


@dataclass
class MailServer:
    """A mail server that wants TLS by STARTTLS, and a login; what it was told, and whether that was in clear."""

    certificate: Path
    offers_tls: bool = True
    port: int = 0
    mails: list[str] = field(default_factory=list)
    logins: list[tuple[str, bool]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await self._converse(reader, writer)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_secure = False
        writer.write(b"220 localhost\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line.partition(" ")[0].upper()
            if verb == "EHLO":
                offers = "250-STARTTLS\r\n" if self.offers_tls and not is_secure else ""
                writer.write(f"250-localhost\r\n{offers}250 AUTH PLAIN\r\n".encode())
            elif verb == "STARTTLS":
                writer.write(b"220 go ahead\r\n")
                await writer.drain()
                await writer.start_tls(tls_of(self.certificate))
                is_secure = True
            elif verb == "AUTH":
                self.logins.append((base64.b64decode(line.split()[-1]).decode(), is_secure))
                writer.write(b"235 ok\r\n" if "wrong" not in self.logins[-1][0] else b"535 no\r\n")
            elif verb == "DATA":
                writer.write(b"354 go on\r\n")
                self.mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
                writer.write(b"250 ok\r\n")
            else:
                writer.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            await writer.drain()


@asynccontextmanager
async def mail_server(certificate: Path, *, offers_tls: bool = True) -> AsyncIterator[MailServer]:
    """Run a mail server on 127.0.0.1."""
    server = MailServer(certificate, offers_tls)
    async with _listening(server.serve, None) as server.port:
        yield server


@asynccontextmanager
async def _listening(serve: object, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)  # type: ignore[operator]
        finally:  # also when this is cancelled because the test is over
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
