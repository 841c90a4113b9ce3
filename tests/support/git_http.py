"""A git server over http on the loopback: git's own `http-backend` behind the standard library, with a password."""

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class GitServer:
    """Serves the repositories below `root` to `user`; keeps who asked for what."""

    root: Path
    user: str
    password: str
    port: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)

    def url(self, name: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{name}"

    @property
    def credentials(self) -> set[str]:
        """Every user and password that came, as `user:password`; empty for a request without."""
        return {credentials for _, credentials in self.requests}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: GitServer

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def log_message(self, *_: object) -> None:
        """Say nothing on the terminal of the tests."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _serve(self, body: bytes) -> None:
        kind, _, encoded = self.headers.get("Authorization", "").partition(" ")
        credentials = base64.b64decode(encoded).decode() if kind == "Basic" else ""
        self.plan.requests.append((self.path, credentials))
        if credentials != f"{self.plan.user}:{self.plan.password}":
            self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"")
            return
        head, _, answer = self._backend(body).partition(b"\r\n\r\n")
        fields = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in head.decode().split("\r\n"))
        ]
        status = next((int(value[:3]) for name, value in fields if name == "Status"), 200)
        self._answer(status, [(name, value) for name, value in fields if name != "Status"], answer)

    def _backend(self, body: bytes) -> bytes:
        address = urlsplit(self.path)
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.plan.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": address.path,
            "QUERY_STRING": address.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": self.plan.user,
        }
        # Asked for a commit that is not there, it answers so, and exits with 1.
        command = ["git", "http-backend"]
        return subprocess.run(command, input=body, env=env, check=False, capture_output=True, timeout=60).stdout

    def _answer(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def git_server(root: Path, user: str, password: str) -> Iterator[GitServer]:
    """Serve what is below `root` while the block runs."""
    plan = GitServer(root, user, password)
    handler = type("Handler", (_Handler,), {"plan": plan})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        plan.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="git-server")
        thread.start()
        try:
            yield plan
        finally:
            server.shutdown()
            thread.join()
