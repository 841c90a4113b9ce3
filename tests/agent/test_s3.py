"""The plugin s3: files and folders in a real bucket, of a server on the loopback."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.store import S3Store

from arcentra_agent.plugins import s3
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, StepResult
from tests.agent.stage import Stage

BUCKET = "releases"
KEYS = {"access_key": "the-access-key", "secret_key": "hunter2-hunter2"}
FAILED = StepResult(1, "the upload did not succeed; the log says why")


@pytest.fixture(scope="module")
async def endpoint() -> AsyncIterator[str]:
    """A server that speaks S3, and keeps everything in memory."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stderr is not None
    try:
        while not (found := re.search(rb"http://127\.0\.0\.1:\d+", await server.stderr.readline())):
            assert server.returncode is None, "the server ended"
        yield found[0].decode()
    finally:
        server.terminate()
        await server.communicate()


@pytest.fixture
async def bucket(endpoint: str) -> S3Store:
    """A bucket without anything in it."""
    address = urlsplit(endpoint)
    for method, path in (("POST", "/moto-api/reset"), ("PUT", f"/{BUCKET}")):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"{method} {path} HTTP/1.0\r\nHost: {address.netloc}\r\nContent-Length: 0\r\n\r\n".encode())
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
    return S3Store(
        BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id="reader",
        secret_access_key="reader",
        client_options={"allow_http": True},
    )


async def content(bucket: S3Store) -> dict[str, bytes]:
    keys = [item["path"] for batch in [await obstore.list(bucket).collect_async()] for item in batch]
    return {key: bytes(await (await obstore.get_async(bucket, key)).bytes_async()) for key in keys}


def written(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.slow
async def test_a_folder_is_uploaded(stage: Stage, bucket: S3Store, endpoint: str) -> None:
    written(
        stage.workspace, {"site/index.html": "<p>", "site/a/b c.txt": "text", "site/a/ü%20#.css": "", "not.txt": ""}
    )
    (stage.workspace / "site" / "link.html").symlink_to("index.html")
    args = {"bucket": BUCKET, "path": "site", "prefix": "/v1/web/", "endpoint": endpoint, **KEYS}
    assert await stage.run("s3", args) == StepResult(0), stage.log.read_text()
    assert await content(bucket) == {
        "v1/web/index.html": b"<p>",
        "v1/web/link.html": b"<p>",
        "v1/web/a/b c.txt": b"text",
        "v1/web/a/ü%20#.css": b"",
    }
    assert stage.log.read_text().splitlines() == [
        "uploaded v1/web/a/b c.txt, 4 bytes",
        "uploaded v1/web/a/ü%20#.css, 0 bytes",
        "uploaded v1/web/index.html, 3 bytes",
        "uploaded v1/web/link.html, 3 bytes",
        f"uploaded 4 files, 10 bytes, to {BUCKET}",
    ]
    page = await obstore.get_async(bucket, "v1/web/index.html")
    assert page.attributes["Content-Type"] == "text/html"


@pytest.mark.slow
async def test_a_large_file_goes_in_parts(stage: Stage, bucket: S3Store, endpoint: str) -> None:
    data = os.urandom(1 << 20) * 20
    (stage.workspace / "release.tar.gz").write_bytes(data)
    args = {"bucket": BUCKET, "path": "release.tar.gz", "endpoint": endpoint, **KEYS}
    assert await stage.run("s3", args) == StepResult(0), stage.log.read_text()
    assert await content(bucket) == {"release.tar.gz": data}
    head = await obstore.head_async(bucket, "release.tar.gz")
    assert str(head["e_tag"]).strip('"').endswith("-3")


@pytest.mark.slow
async def test_keys_may_be_secrets_of_the_step(stage: Stage, bucket: S3Store, endpoint: str) -> None:
    written(stage.workspace, {"a.txt": "a"})
    stage.env |= {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    result = await stage.run("s3", {"bucket": BUCKET, "path": "a.txt", "endpoint": endpoint})
    assert result == StepResult(0), stage.log.read_text()
    assert await content(bucket) == {"a.txt": b"a"}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["../outside.txt", "../outside", "nowhere", "fifo"])
async def test_nothing_leads_out_of_the_workspace(
    stage: Stage, bucket: S3Store, endpoint: str, tmp_path: Path, target: str
) -> None:
    written(tmp_path, {"outside.txt": "private", "outside/too.txt": "private"})
    written(stage.workspace, {"site/a.txt": "a"})
    if target == "fifo":
        os.mkfifo(stage.workspace / "site" / "z")
    else:
        (stage.workspace / "site" / "z").symlink_to(f"../{target}")
    args = {"bucket": BUCKET, "path": "site", "endpoint": endpoint, **KEYS}
    assert await stage.run("s3", args) == FAILED
    assert await content(bucket) == {}
    words = {"nowhere": "leads nowhere", "fifo": "is not a file", "../outside": "link to a folder"}
    assert words.get(target, "leads out of the workspace") in stage.log.read_text()


@pytest.mark.parametrize("path", ["link", "link/too.txt", "missing"])
async def test_the_path_itself_is_in_the_workspace(stage: Stage, tmp_path: Path, path: str) -> None:
    written(tmp_path, {"outside/too.txt": "private"})
    (stage.workspace / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ArgumentError, match=r"args\.path: (link.* leads out of|there is no missing in) the workspace"):
        await stage.run("s3", {"bucket": BUCKET, "path": path})


@pytest.mark.slow
async def test_what_is_in_the_workspace_is_not_imported(stage: Stage, bucket: S3Store, endpoint: str) -> None:
    written(stage.workspace, {"obstore.py": "raise SystemExit(0)", "arcentra_agent/__init__.py": "raise SystemExit(0)"})
    assert await stage.run("s3", {"bucket": BUCKET, "path": "obstore.py", "endpoint": endpoint, **KEYS}) == StepResult(
        0
    )
    assert list(await content(bucket)) == ["obstore.py"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"bucket": "no-such-bucket", "path": "site"}, "cannot upload a.txt"),
        ({"bucket": BUCKET, "path": "empty"}, "there is no file in"),
    ],
)
async def test_what_cannot_be_uploaded(
    stage: Stage, bucket: S3Store, endpoint: str, args: dict[str, object], words: str
) -> None:
    written(stage.workspace, {"site/a.txt": "a"})
    (stage.workspace / "empty" / "deeper").mkdir(parents=True)
    assert await stage.run("s3", {**args, "endpoint": endpoint, **KEYS}) == FAILED
    assert words in stage.log.read_text()
    assert "hunter2" not in stage.log.read_text()
    assert await content(bucket) == {}


@pytest.mark.parametrize(
    ("action", "args", "words"),
    [
        ("sync", {}, "action: s3 has upload, got 'sync'"),
        ("", {"bucket": "b"}, r"args\.path: expected a text, got nothing"),
        ("", {"path": "p"}, r"args\.bucket: expected a text, got nothing"),
        ("", {"bucket": "b", "path": "/etc"}, r"args\.path: expected a path inside the workspace"),
        ("", {"bucket": "b", "path": "a/../.."}, r"args\.path: expected a path inside the workspace"),
        ("", {"bucket": "b", "path": "p", "access_key": "k"}, r"args\.access_key: give both"),
        ("", {"bucket": "b", "path": "p", "secret_key": "k"}, r"args\.access_key: give both"),
        ("", {"bucket": "b", "path": "p", "endpoint": "s3.local"}, r"args\.endpoint: expected an address"),
        ("", {"bucket": "b", "path": "p", "prefix": "a//b"}, r"args\.prefix: expected folders"),
        ("", {"bucket": "b", "path": "p", "prefix": "../b"}, r"args\.prefix: expected folders"),
        ("", {"bucket": "b", "path": "p", "acl": "public"}, r"args\.acl: unknown argument"),
    ],
)
def test_what_is_refused(action: str, args: Args, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        s3.parse(action, args, Path("/w"))


def test_keys_do_not_show_themselves() -> None:
    assert "hunter2" not in repr(s3.parse("", {"bucket": "b", "path": "p", **KEYS}, Path("/w")))
