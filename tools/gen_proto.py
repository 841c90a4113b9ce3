"""Write the typed stubs of `proto/` to `src/arcentra_api/`, or to `DIR/arcentra_api/` with `--out DIR`.

The packages keep their names (`agent.v1`), but the Python modules live under `arcentra_api`. For that the files are
compiled to a descriptor set, their *names* there get the prefix `arcentra_api/`, and the generators run on the result:
they then write `from arcentra_api.steprun.v1 import steprun_pb2` by themselves.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, SOURCE = "arcentra_api", ROOT / "proto"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
PLUGINS = Path(sys.executable).parent


def compile_protos(*args: str) -> None:
    if code := protoc.main(["protoc", *args, f"-I{WELL_KNOWN}"]):
        sys.exit(code)


def prefixed(descriptor_set: bytes, files: list[str]) -> FileDescriptorSet:
    """Return the set with `arcentra_api/` before the name of each of our own files."""
    descriptors = FileDescriptorSet.FromString(descriptor_set)
    for file in descriptors.file:
        for index, dependency in enumerate(file.dependency):
            if dependency in files:
                file.dependency[index] = f"{PACKAGE}/{dependency}"
        if file.name in files:
            file.name = f"{PACKAGE}/{file.name}"
    return descriptors


def generate(out: Path) -> None:
    files = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        plain, renamed = Path(scratch, "plain.binpb"), Path(scratch, "renamed.binpb")
        compile_protos(
            f"-I{SOURCE}", f"--descriptor_set_out={plain}", "--include_imports", "--include_source_info", *files
        )
        renamed.write_bytes(prefixed(plain.read_bytes(), files).SerializeToString())
        shutil.rmtree(out / PACKAGE, ignore_errors=True)
        compile_protos(
            f"--descriptor_set_in={renamed}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--plugin=protoc-gen-mypy={PLUGINS / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={PLUGINS / 'protoc-gen-mypy_grpc'}",
            f"--mypy_out=readable_stubs,quiet:{out}",
            f"--mypy_grpc_out=only_async,quiet:{out}",
            *[f"{PACKAGE}/{file}" for file in files],
        )
    folders = {path.parent for path in (out / PACKAGE).rglob("*_pb2.py")}
    for folder in folders | {folder.parent for folder in folders} | {out / PACKAGE}:
        (folder / "__init__.py").touch()
    (out / PACKAGE / "py.typed").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the typed stubs of proto/.")
    parser.add_argument("--out", type=Path, default=ROOT / "src", metavar="DIR", help="default: src")
    generate(parser.parse_args().out.resolve())


if __name__ == "__main__":
    main()
