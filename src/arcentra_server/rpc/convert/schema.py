"""The JSON Schema of pipeline documents, draft 2020-12, made from `shapes` for editors.

It is a little stricter than the reader, which also takes null for an absent value and fixed texts in capitals, and it
leaves out what a schema cannot say: the checks of the server have the last word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from arcentra_server.domain import channels, targets
from arcentra_server.rpc.convert.shapes import NOTIFICATION, OPTIONS, PIPELINE, TARGET, TRIGGER, Key, Kind, Shape, camel

_TEXT = {"type": ["string", "number", "boolean"]}
_STRING = {"type": "string"}
_NAME = {**_TEXT, "pattern": "^[A-Za-z0-9._-]{1,64}$"}
_DURATION = {"type": "string", "pattern": "^([0-9]{1,9}(ms|d|h|m|s))+$"}
_REFERENCE = {"type": "string", "pattern": r"\$\{\{.*secrets.*\}\}"}
_TEXTS = {"type": "array", "items": _TEXT}
_MAP = {"type": "object", "additionalProperties": _TEXT}
_PLAIN: Mapping[Kind, dict[str, Any]] = {
    Kind.NAME: _NAME,
    Kind.DURATION: _DURATION,
    Kind.FLAG: {"type": "boolean"},
    Kind.MAP: _MAP,
    Kind.DATA: {"type": "object"},
    Kind.SECRETS: {"anyOf": [_TEXTS, _MAP]},
}
_CELL = {"type": "object", "additionalProperties": _TEXT, "minProperties": 1}
_MATRIX = {
    "description": "Values for which a job runs: axes by name, entries to add, entries to leave out.",
    "type": "object",
    "properties": {
        "include": {
            "description": "Values to add to the cells whose other values agree, or cells of their own.",
            "type": "array",
            "items": _CELL,
        },
        "exclude": {
            "description": "Cells to leave out: those that agree with all values of an entry.",
            "type": "array",
            "items": _CELL,
        },
    },
    "additionalProperties": {"description": "An axis.", "type": "array", "items": _TEXT, "minItems": 1},
    "minProperties": 1,
}
_SETTINGS: Mapping[targets.Setting, dict[str, Any]] = {
    targets.Setting.TEXT: _STRING,
    targets.Setting.PATH: _STRING,
    targets.Setting.PATHS: {"type": "array", "items": _STRING},
    targets.Setting.FLAG: {"type": "boolean"},
    targets.Setting.SECRET: _REFERENCE,
}
_ARGUMENTS: Mapping[channels.Kind, dict[str, Any]] = {
    channels.Kind.SECRET: _REFERENCE,
    channels.Kind.ADDRESS: _STRING,
    channels.Kind.TEXT: {"type": ["string", "number"]},
    channels.Kind.LIST: {"anyOf": [_STRING, {"type": "array", "items": _STRING}]},
    channels.Kind.HEADERS: {"type": "object", "additionalProperties": _STRING},
    channels.Kind.FORMAT: _STRING,
    channels.Kind.SECURITY: _STRING,
}


@cache
def schema_text() -> str:
    """Return the schema as JSON text."""
    return json.dumps(json_schema(), indent=2) + "\n"


def json_schema() -> dict[str, Any]:
    """Return the schema."""
    definitions: dict[str, Any] = {"matrix": _MATRIX}
    root = _object(PIPELINE, definitions)
    root["oneOf"] = [{"required": ["stages"]}, {"required": ["jobs"]}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Arcentra pipeline",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _ref(shape: Shape, definitions: dict[str, Any]) -> dict[str, Any]:
    if shape.name not in definitions:
        # Its place is taken first, for what refers back to it.
        definitions[shape.name] = {}
        definitions[shape.name] = _SPECIAL.get(shape.name, _object)(shape, definitions)
    return {"$ref": f"#/$defs/{shape.name}"}


def _object(shape: Shape, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {}
    for name, key in shape.keys.items():
        properties[name] = _value(name, key, definitions)
        if camel(name) != name:
            properties[camel(name)] = properties[name]
    schema: dict[str, Any] = {
        "description": shape.about,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    plain = [name for name in shape.needed if camel(name) == name]
    if plain:
        schema["required"] = plain
    both = [name for name in shape.needed if camel(name) != name]
    if both:
        schema["allOf"] = [{"anyOf": [{"required": [name]}, {"required": [camel(name)]}]} for name in both]
    return schema


def _value(name: str, key: Key, definitions: dict[str, Any]) -> dict[str, Any]:
    about = {"description": key.about}
    if key.kind in {Kind.SHAPE, Kind.SHAPES}:
        inner = _ref(key.of, definitions) if key.of is not None else {"$ref": f"#/$defs/{name}"}
        return {**about, **(inner if key.kind is Kind.SHAPE else {"type": "array", "items": inner})}
    if key.kind is Kind.NUMBER:
        return {**about, "type": "integer", "minimum": key.least, "maximum": key.most}
    if key.kind in {Kind.NAMES, Kind.TEXTS}:
        item = {"enum": list(key.one_of)} if key.one_of else (_NAME if key.kind is Kind.NAMES else _TEXT)
        return {**about, "type": "array", "items": item}
    if key.kind is Kind.TEXT:
        return {**about, **({"enum": list(key.one_of)} if key.one_of else _TEXT)}
    return {**about, **_PLAIN[key.kind]}


def _triggers(shape: Shape, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema for each kind of trigger, with its own options."""
    kinds = []
    for kind, options in OPTIONS.items():
        keys = {name: key for name, key in shape.keys.items() if name in options.keys}
        one = Shape(f"{kind}_trigger", options.about, keys)
        schema = _object(one, definitions)
        schema["properties"] = {
            "type": {"description": shape.keys["type"].about, "const": kind},
            **schema["properties"],
            "options": {"description": shape.keys["options"].about, **_ref(options, definitions)},
        }
        schema["required"] = ["type"]
        schema["anyOf"] = [{"required": list(options.needed)}, {"required": ["options"]}]
        kinds.append(schema)
    return {"description": shape.about, "oneOf": kinds}


def _targets(shape: Shape, _definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema for each kind of target, with its own settings."""
    kinds = []
    for kind, target in targets.TARGETS.items():
        config = {
            "description": shape.keys["config"].about,
            "type": "object",
            "properties": {name: _SETTINGS[setting] for name, setting in target.settings.items()},
            "required": list(target.needed),
            "additionalProperties": False,
        }
        kinds.append(_tagged(shape, "type", kind, "config", config, ["type", "config"]))
    return {"description": shape.about, "oneOf": kinds}


def _notifications(shape: Shape, _definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a schema for each channel, with its own arguments."""
    kinds = []
    for plugin, channel in channels.CHANNELS.items():
        known = {
            **channel.args,
            "title": channels.Kind.TEXT,
            "text": channels.Kind.TEXT,
            "format": channels.Kind.FORMAT,
        }
        args = {
            "description": shape.keys["args"].about,
            "type": "object",
            "properties": {name: _argument(kind) for name, kind in known.items()},
            "anyOf": [{"required": list(names)} for names in channel.one_of],
            "additionalProperties": False,
        }
        one = _tagged(shape, "plugin", plugin, "args", args, ["plugin", "args"])
        one["properties"]["action"] = {"description": shape.keys["action"].about, "enum": ["", channels.SEND]}
        kinds.append(one)
    return {"description": shape.about, "oneOf": kinds}


def _argument(kind: channels.Kind) -> dict[str, Any]:
    choices = channels.CHOICES.get(kind)
    return {"anyOf": [{"enum": list(choices)}, {"pattern": r"\$\{\{"}]} if choices else _ARGUMENTS[kind]


def _tagged(
    shape: Shape, tag: str, value: str, inner: str, schema: dict[str, Any], needed: list[str]
) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {tag: {"description": shape.keys[tag].about, "const": value}, inner: schema},
        "required": needed,
        "additionalProperties": False,
    }


_SPECIAL = {TRIGGER.name: _triggers, TARGET.name: _targets, NOTIFICATION.name: _notifications}
