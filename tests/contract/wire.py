"""Read the fixed wire contract (`wire.txt`), describe generated descriptors in the same words, and name what deviates.

A *shape* maps the title of a service, message or enum to its members: method, field or value name -> signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor

FIRST_FREE_NUMBER = 100
SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}
MEMBER = re.compile(r"(?P<name>\w+)=(?P<signature>\d+(?: [^;]+)?)(?:; |$)")

Shape = dict[str, dict[str, str]]


def read_contract(path: Path) -> Shape:
    """Return the shape that `path` fixes; ValueError names a line that cannot be read."""
    shape: Shape = {}
    members: dict[str, str] = {}
    package = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("## "):
            package = line.rpartition(" package ")[2]
            shape[f"package {package}"] = {}
        elif line.startswith("service "):
            members = shape.setdefault(f"service {package}.{line.removeprefix('service ')}", {})
        elif rpc := re.fullmatch(r"  rpc (\w+)(\(.+\) -> .+)", line):
            members[rpc[1]] = rpc[2]
        elif declared := re.fullmatch(r"(\S+)( \(enum\))?: ?(.*)", line):
            kind = "enum" if declared[2] else "message"
            found = list(MEMBER.finditer(declared[3]))
            if sum(len(match[0]) for match in found) != len(declared[3]):
                raise ValueError(f"{path}:{number}: cannot read {line!r}")
            shape[f"{kind} {declared[1]}"] = {match["name"]: match["signature"] for match in found}
        elif line and not line.startswith("#"):
            raise ValueError(f"{path}:{number}: cannot read {line!r}")
    return shape


def describe(files: Iterable[FileDescriptor]) -> Shape:
    """Return the shape of everything that `files` declare."""
    shape: Shape = {}
    for file in files:
        shape[f"package {file.package}"] = {}
        for service in file.services_by_name.values():
            shape[f"service {service.full_name}"] = _methods(service)
        for enum in file.enum_types_by_name.values():
            shape[f"enum {enum.full_name}"] = _values(enum)
        for message in file.message_types_by_name.values():
            shape.update(_messages(message))
    return shape


def deviations(fixed: Shape, found: Shape) -> list[str]:
    """Return one line for each way in which `found` breaks `fixed`; an empty list means that it keeps the contract."""
    return [line for title, members in fixed.items() for line in _deviations_of(title, members, found.get(title))]


def _deviations_of(title: str, fixed: dict[str, str], found: dict[str, str] | None) -> Iterator[str]:
    if found is None:
        yield f"{title}: missing"
        return
    for name, signature in fixed.items():
        if name not in found:
            yield f"{title}: {name} is missing (fixed as {signature})"
        elif found[name] != signature:
            yield f"{title}: {name} is {found[name]}, fixed as {signature}"
    if title.startswith(("message ", "enum ")):
        for name in found.keys() - fixed.keys():
            if int(found[name].split()[0]) < FIRST_FREE_NUMBER:
                yield f"{title}: {name} = {found[name]} was added below {FIRST_FREE_NUMBER}"


def _methods(service: ServiceDescriptor) -> dict[str, str]:
    def stream(streaming: bool, name: str) -> str:
        return f"stream {name}" if streaming else name

    return {
        method.name: f"({stream(method.client_streaming, method.input_type.full_name)}) -> "
        + stream(method.server_streaming, method.output_type.full_name)
        for method in service.methods
    }


def _values(enum: EnumDescriptor) -> dict[str, str]:
    return {value.name: str(value.number) for value in enum.values}


def _messages(message: Descriptor) -> Iterator[tuple[str, dict[str, str]]]:
    yield f"message {message.full_name}", {field.name: _field(field) for field in message.fields}
    for enum in message.enum_types:
        yield f"enum {enum.full_name}", _values(enum)
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from _messages(nested)


def _field(field: FieldDescriptor) -> str:
    signature = f"{field.number} {_type(field)}"
    oneof = field.containing_oneof
    # `optional` is carried as a oneof of its own, named after the field with a leading underscore.
    if oneof is not None and oneof.name != f"_{field.name}":
        signature += f" oneof:{oneof.name}"
    return signature


def _type(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = message.fields
        return f"map<{_type(key)},{_type(value)}>"
    named = message or field.enum_type
    name = named.full_name if named is not None else SCALARS[field.type]
    return f"repeated {name}" if field.is_repeated else name
