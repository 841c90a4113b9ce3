"""The channels that notifications go through: which arguments each takes, and what is a fault of them.

What is checked here is what was written; the values that stand for `${{ }}` are checked in `domain/deliveries.py`, when
the notification is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from arcentra_server.domain.definition import NotificationSpec
from arcentra_server.domain.field_checks import TEMPLATE, unknown

SEND = "send"
USE_A_SECRET = "use `${{ secrets.NAME }}`"  # noqa: S105 - says how to keep one
_NOTHING: tuple[Any, ...] = (None, "", [])
_SECRET = re.compile(r"\$\{\{.*?\bsecrets\s*[.\[].*?\}\}", re.DOTALL)
_TEMPLATE = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_SENSITIVE = re.compile(r"token|secret|passw|auth|cookie|key|sig|credential", re.IGNORECASE)
_OURS = re.compile(r"host|content-.*|transfer-encoding|connection|user-agent|x-arcentra-.*", re.IGNORECASE)
# What a person would not write by hand: letters and digits mixed, as in tokens and random ids.
_TOKEN = re.compile(r"(?=[A-Za-z0-9_-]*[0-9])(?=[A-Za-z0-9_-]*[A-Za-z])[A-Za-z0-9_-]{20,}")


class Kind(StrEnum):
    """What an argument is. A `SECRET` refers to one; an `ADDRESS` must when it holds a token; a `FORMAT` is a text's."""

    SECRET = "secret"  # noqa: S105 - a kind of argument
    ADDRESS = "address"
    TEXT = "text"
    LIST = "list"
    HEADERS = "headers"
    FORMAT = "format"
    SECURITY = "security"


CHOICES: Mapping[Kind, tuple[str, ...]] = {Kind.FORMAT: ("text", "markdown"), Kind.SECURITY: ("starttls", "tls")}


@dataclass(frozen=True, slots=True)
class Channel:
    """What a channel takes. `one_of`: sets of arguments of which exactly one has to be there, whole."""

    args: Mapping[str, Kind]
    one_of: tuple[tuple[str, ...], ...]
    markdown: bool = False

    def kind(self, name: str) -> Kind | None:
        """Return what an argument is, None for one that the channel does not take."""
        return self.args.get(name) or _COMMON.get(name)


_COMMON = {"title": Kind.TEXT, "text": Kind.TEXT, "format": Kind.FORMAT}
_BOT = Channel({"url": Kind.SECRET, "token": Kind.SECRET}, (("url",), ("token",)))
_MAIL = {
    "server": Kind.TEXT,
    "security": Kind.SECURITY,
    "user": Kind.TEXT,
    "password": Kind.SECRET,
    "from": Kind.TEXT,
    "to": Kind.LIST,
}
CHANNELS: Mapping[str, Channel] = {
    "webhook": Channel({"url": Kind.ADDRESS, "secret": Kind.SECRET, "headers": Kind.HEADERS}, (("url",),)),
    "slack": Channel(
        {"url": Kind.SECRET, "token": Kind.SECRET, "channel": Kind.TEXT},
        (("url",), ("token", "channel")),
        markdown=True,
    ),
    "discord": Channel({"url": Kind.SECRET}, (("url",),), markdown=True),
    "mail": Channel(_MAIL, (("server", "from", "to"),)),
    "telegram": Channel({"token": Kind.SECRET, "chat": Kind.TEXT}, (("token", "chat"),)),
    "feishu": _BOT,
    "dingtalk": Channel({**_BOT.args, "secret": Kind.SECRET}, _BOT.one_of, markdown=True),
    "wecom": _BOT,
    "teams": Channel({"url": Kind.SECRET}, (("url",),), markdown=True),
    "apprise": Channel({"url": Kind.SECRET}, (("url",),)),
}


def check_notification(spec: NotificationSpec) -> list[str]:
    """Return the faults of a notification as it was written, each beginning with the field that it is about."""
    channel = CHANNELS.get(spec.plugin)
    if channel is None:
        return [f"plugin: {unknown(spec.plugin, list(CHANNELS))}"]
    faults = [] if spec.action in {"", SEND} else [f"action: is empty or `{SEND}`, not {spec.action[:80]!r}"]
    faults += missing_args(channel, spec.args)
    for name, value in spec.args.items():
        kind = channel.kind(name)
        if kind is None:
            faults.append(f"args.{name[:80]}: {unknown(name, [*channel.args, *_COMMON])}")
        elif value not in _NOTHING:
            faults += [f"args.{name}{fault}" for fault in _check_value(kind, value)]
    return faults


def missing_args(channel: Channel, args: Mapping[str, Any]) -> list[str]:
    """Return the fault of arguments of which a channel needs more, or takes only some."""
    given = {name for name, value in args.items() if value not in _NOTHING}
    sets = [" and ".join(f"`{name}`" for name in names) for names in channel.one_of]
    whole = [names for names in channel.one_of if given.issuperset(names)]
    if not whole:
        return [f"args: {', or '.join(sets)} must be given"]
    others = {name for names in channel.one_of if names != whole[0] for name in names} - set(whole[0])
    if given & others:
        return [f"args: only one of {', or '.join(sets)} can be given"]
    return []


def looks_clear(text: str) -> bool:
    """Answer whether an address holds what looks like a token, outside of `${{ }}`."""
    parts = split(_TEMPLATE.sub("", text))
    if parts is None:
        return False
    return (
        bool(parts.username or parts.password)
        or any(_SENSITIVE.search(key) and value for key, value in parse_qsl(parts.query))
        or any(_TOKEN.fullmatch(part) for part in re.split(r"[/?&=#;]", f"{parts.path}?{parts.query}"))
    )


def split(url: str) -> SplitResult | None:
    """Return the parts of an address, None for one that is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _check_value(kind: Kind, value: Any) -> list[str]:
    if kind is Kind.HEADERS:
        return _check_headers(value)
    if not _is_of(kind, value):
        return [": is a text or a list of texts" if kind is Kind.LIST else ": is a text"]
    if kind is Kind.SECRET and not _SECRET.search(value):
        return [f": stands there in clear; {USE_A_SECRET}"]
    if kind is Kind.ADDRESS:
        return _check_address(value)
    if kind in CHOICES and TEMPLATE not in value and value not in CHOICES[kind]:
        return [f": {unknown(value, CHOICES[kind])}"]
    return []


def _is_of(kind: Kind, value: Any) -> bool:
    if kind is Kind.LIST and isinstance(value, (list, tuple)):
        return all(isinstance(item, str) for item in value)
    # Ids of chats are numbers, which a document need not quote.
    is_id = kind is Kind.TEXT and not isinstance(value, bool) and isinstance(value, (int, float))
    return float(value).is_integer() if is_id else isinstance(value, str)


def _check_address(value: str) -> list[str]:
    if looks_clear(value):
        return [f": holds a token in clear; {USE_A_SECRET} for it, or for the whole address"]
    if value.startswith(TEMPLATE):
        return []
    parts = split(_TEMPLATE.sub("x", value))
    if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
        return [": is not an address; write https://HOST/PATH"]
    if parts.scheme == "http":
        return [": http:// is refused, as everybody on the way can read it; use https://"]
    return []


def _check_headers(value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return [": is a mapping of names to texts"]
    faults = []
    for name, text in value.items():
        if not _HEADER.fullmatch(name) or _OURS.fullmatch(name):
            faults.append(f": {name[:80]!r} is not a header that can be set")
        elif not isinstance(text, str):
            faults.append(f".{name}: is a text")
        elif _SENSITIVE.search(name) and not _SECRET.search(text):
            faults.append(f".{name}: stands there in clear; {USE_A_SECRET}")
    return faults
