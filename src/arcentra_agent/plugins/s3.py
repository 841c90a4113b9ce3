"""`uses: s3`: uploads a file or a folder of the workspace into a bucket, of Amazon S3 or of anything that speaks it.

The upload is a process of its own (`arcentra_agent.s3_upload`): it is stopped like any other, and sees the environment of
the step and not the agent's, whose credentials are not the step's.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from arcentra_agent.plugins import arguments
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args, StepContext, StepResult


@dataclass(frozen=True, slots=True)
class Upload:
    """What goes where. No keys: those of the step's environment, or of the role of the agent's host."""

    path: Path
    bucket: str
    prefix: str
    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)


def parse(action: str, args: Args, workspace: Path) -> Upload:
    """Read the arguments; the only action is `upload`.

    Raises:
        ArgumentError: see there.
    """
    if action not in {"", "upload"}:
        raise ArgumentError(f"action: s3 has upload, got {action[:64]!r}")
    arguments.check_known(args, ("bucket", "path", "prefix", "endpoint", "region", "access_key", "secret_key"))
    upload = Upload(
        path=arguments.below(workspace, arguments.required_text(args, "path"), "path"),
        bucket=arguments.required_text(args, "bucket"),
        prefix=arguments.text(args, "prefix").strip("/"),
        endpoint=arguments.text(args, "endpoint"),
        region=arguments.text(args, "region") or "us-east-1",
        access_key=arguments.line(args, "access_key"),
        secret_key=arguments.line(args, "secret_key"),
    )
    if bool(upload.access_key) != bool(upload.secret_key):
        raise ArgumentError("args.access_key: give both access_key and secret_key, or none")
    if upload.endpoint and not upload.endpoint.startswith(("https://", "http://")):
        raise ArgumentError("args.endpoint: expected an address that begins with https:// or http://")
    if any(part in {"", ".", ".."} for part in upload.prefix.split("/")) and upload.prefix:
        raise ArgumentError("args.prefix: expected folders such as site/v1, without empty parts, '.' and '..'")
    return upload


class S3Plugin:
    """Uploads files."""

    secret_args: ClassVar[frozenset[str]] = frozenset({"secret_key"})

    async def run(self, action: str, args: Args, context: StepContext) -> StepResult:
        todo = parse(action, args, context.workspace)
        arguments.resolved(todo.path, context.workspace, "path")
        order = {
            "workspace": str(context.workspace),
            "path": str(todo.path),
            "bucket": todo.bucket,
            "prefix": todo.prefix,
            "endpoint": todo.endpoint,
            "region": todo.region,
        }
        # Never in the argument list: every process of the host can read those.
        keys = {"AWS_ACCESS_KEY_ID": todo.access_key, "AWS_SECRET_ACCESS_KEY": todo.secret_key}
        # -P: what lies in the workspace is not to be imported.
        argv = (sys.executable, "-P", "-m", "arcentra_agent.s3_upload", json.dumps(order))
        if await context.run(argv, env=keys if todo.secret_key else {}):
            return StepResult(1, "the upload did not succeed; the log says why")
        return StepResult(0)
