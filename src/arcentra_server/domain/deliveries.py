"""From a notification, its arguments rendered, to what is handed to the process that sends it.

The texts of errors here go to the delivery log, which more people read than may know a secret: they name an argument
and never its value.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from arcentra_server.domain.channels import CHANNELS, CHOICES, Kind, missing_args, split
from arcentra_server.domain.notices import (
    LONGEST_TEXT,
    LONGEST_TITLE,
    Notice,
    cut,
    default_text,
    default_title,
    one_line,
)

_SLACK = re.compile(r"https://hooks\.slack\.com/services/([A-Za-z0-9]+)/([A-Za-z0-9]+)/([A-Za-z0-9]+)/?")
_SLACK_TOKEN = re.compile(r"xox[a-z]-[A-Za-z0-9-]+")
_DISCORD = re.compile(r"https://discord(?:app)?\.com/api/webhooks/([0-9]+)/([A-Za-z0-9_-]+)/?")
_TELEGRAM = re.compile(r"[0-9]+:[A-Za-z0-9_-]+")
_FEISHU = re.compile(r"https://open\.(feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/([A-Za-z0-9_-]+)/?")
_DINGTALK = re.compile(r"https://oapi\.dingtalk\.com/robot/send/?\?access_token=([A-Za-z0-9]+)")
_WECOM = re.compile(r"https://qyapi\.weixin\.qq\.com/cgi-bin/webhook/send/?\?key=([A-Za-z0-9_-]+)")
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TEAMS_HOST = re.compile(
    r"[A-Za-z0-9_.-]+\.(?:logic\.azure\.[a-z]{2,12}|(?:power|apps)platform(?:\.[a-z0-9-]{2,24}){1,3})"
)
_TEAMS_PATH = re.compile(
    r"(?:/powerautomate/automations/direct(?:/cu/[0-9]+)?)?/workflows/[A-Za-z0-9_-]+/triggers/manual/paths/invoke/?"
)
_TEAMS_QUERY = ("api-version", "sp", "sv", "sig")
_SERVER = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?")
_MAILBOX = re.compile(r"[^\s@,;<>\"]+@[A-Za-z0-9.-]+")
_APPRISE = re.compile(r"[A-Za-z0-9]+://\S+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,4096}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_BACK_OFF = (10, 60, 300, 1_800, 7_200)
MOST_ATTEMPTS = len(_BACK_OFF) + 1


class Undeliverable(Exception):
    """A notification that cannot be sent as it is, however often it is tried. The text holds no value."""


@dataclass(frozen=True, slots=True)
class AppriseMessage:
    """A message for a service that apprise knows by the scheme of its address."""

    url: str
    title: str
    text: str
    markdown: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class WebhookMessage:
    """A request to any server: POST with a body of JSON."""

    url: str
    body: str
    headers: Mapping[str, str]


Message = AppriseMessage | WebhookMessage


@dataclass(frozen=True, slots=True)
class Delivery:
    """How an attempt went. `permanent`: trying again changes nothing. `error` holds no address, token or answer."""

    delivered: bool
    error: str = ""
    permanent: bool = False
    duration_ms: int = 0


def again_in(number: int, delivery: Delivery, jitter: float) -> timedelta | None:
    """Return how long after the `number`th attempt there is another one, None for never; `jitter` is 0 to 1."""
    if delivery.delivered or delivery.permanent or number > len(_BACK_OFF):
        return None
    # Destinations that were away together are not asked again together.
    return timedelta(seconds=_BACK_OFF[number - 1] * (0.8 + 0.4 * jitter))


def message_of(plugin: str, args: Mapping[str, Any], notice: Notice) -> Message:
    """Build what is sent.

    Raises:
        Undeliverable: an argument is missing, or is not what the channel takes.
    """
    channel = CHANNELS.get(plugin)
    if channel is None:
        raise Undeliverable("no such channel")
    for fault in missing_args(channel, args):
        raise Undeliverable(fault)
    texts = _Texts(args)
    style = texts.choice("format", Kind.FORMAT) or ("markdown" if channel.markdown else "text")
    markdown = style == "markdown"
    title = cut(one_line(texts.get("title")) or default_title(notice, markdown=markdown), LONGEST_TITLE)
    text = cut(texts.get("text") or default_text(notice, markdown=markdown), LONGEST_TEXT)
    if plugin == "webhook":
        return _webhook(texts, notice, title, text)
    url = _ADDRESSES[plugin](texts)
    if plugin == "mail":
        url += f"&format={'html' if markdown else 'text'}"
    return AppriseMessage(url, title, text, markdown, notice.failed)


class _Texts:
    """Rendered arguments, read as texts."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.args = args

    def get(self, name: str) -> str:
        """Return an argument, empty when it is not there."""
        value = self.args.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float, type(None))):
            raise Undeliverable(f"args.{name} is not a text")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = "" if value is None else str(value)
        return _CONTROL.sub("", text).strip()

    def choice(self, name: str, kind: Kind) -> str:
        text = self.get(name)
        if text and text not in CHOICES[kind]:
            raise Undeliverable(f"args.{name} is none of {', '.join(CHOICES[kind])}")
        return text

    def match(self, name: str, pattern: re.Pattern[str], wanted: str) -> tuple[str, ...]:
        """Return the groups of an argument that has to be of a form, or all of it when there are none."""
        found = pattern.fullmatch(self.get(name))
        if found is None:
            raise Undeliverable(f"args.{name} is not {wanted}")
        return tuple(group or "" for group in found.groups()) or (found[0],)

    def items(self, name: str) -> list[str]:
        """Return an argument that is a list, or a text with commas."""
        value = self.args.get(name)
        if not isinstance(value, (list, tuple)):
            return [item.strip() for item in self.get(name).split(",") if item.strip()]
        if not all(isinstance(item, str) for item in value):
            raise Undeliverable(f"args.{name} is not a list of texts")
        return [item.strip() for item in value]


def _webhook(texts: _Texts, notice: Notice, title: str, text: str) -> WebhookMessage:
    url = texts.get("url")
    parts = split(url)
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Undeliverable("args.url is not the address of a webhook: https://HOST/PATH")
    event = "job.failure" if notice.failed else "job.success"
    document = {
        "event": event,
        "notification_id": str(notice.notification_id),
        "namespace": notice.namespace,
        "pipeline": notice.pipeline,
        "pipeline_id": str(notice.pipeline_id),
        "run_id": str(notice.run_id),
        "job": notice.job,
        "job_run_id": str(notice.job_run_id),
        "status": notice.status.value,
        "reason": notice.reason,
        "error": notice.error,
        "branch": notice.branch,
        "commit": notice.commit,
        "duration_ms": notice.duration_ms,
        "finished_at": int(notice.finished_at.timestamp()) if notice.finished_at else 0,
        "link": notice.link,
        "title": title,
        "text": text,
    }
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    headers = {
        **_headers(texts.args.get("headers")),
        "Content-Type": "application/json",
        "X-Arcentra-Event": event,
        "X-Arcentra-Delivery": str(notice.notification_id),
    }
    if secret := texts.get("secret"):
        signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
        headers["X-Arcentra-Signature"] = f"sha256={signature}"
    return WebhookMessage(url, body, headers)


def _headers(value: Any) -> dict[str, str]:
    if value is not None and not isinstance(value, Mapping):
        raise Undeliverable("args.headers is not a mapping")
    headers = {}
    for name, text in (value or {}).items():
        if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
            raise Undeliverable(f"args.headers.{name} is not a text of one line in ASCII")
        headers[name] = text.strip()
    return headers


def _slack(texts: _Texts) -> str:
    if texts.get("url"):
        path = "/".join(texts.match("url", _SLACK, "the address of an incoming webhook of Slack"))
    else:
        (token,) = texts.match("token", _SLACK_TOKEN, "a token of Slack")
        path = f"{token}/{_quoted(texts.get('channel'))}"
    return f"slack://{path}/?image=no&footer=no"


def _discord(texts: _Texts) -> str:
    path = "/".join(texts.match("url", _DISCORD, "the address of a webhook of Discord"))
    return f"discord://{path}/?image=no&footer=no&avatar=no"


def _telegram(texts: _Texts) -> str:
    (token,) = texts.match("token", _TELEGRAM, "the token of a bot")
    return f"tgram://{token}/{_quoted(texts.get('chat'))}/?image=no&preview=no&detect=no"


def _feishu(texts: _Texts) -> str:
    if texts.get("url"):
        host, token = texts.match("url", _FEISHU, "the address of a bot of Feishu or Lark")
        return f"{'feishu' if host == 'feishu.cn' else 'lark'}://{token}/"
    (token,) = texts.match("token", _KEY, "the token of a bot")
    return f"feishu://{token}/"


def _dingtalk(texts: _Texts) -> str:
    if texts.get("url"):
        (token,) = texts.match("url", _DINGTALK, "the address of a robot of DingTalk")
    else:
        (token,) = texts.match("token", _KEY, "the token of a robot")
    if not texts.get("secret"):
        return f"dingtalk://{token}/"
    (secret,) = texts.match("secret", _KEY, "the signing secret of a robot")
    return f"dingtalk://{secret}@{token}/"


def _wecom(texts: _Texts) -> str:
    if texts.get("url"):
        (key,) = texts.match("url", _WECOM, "the address of a group robot of WeCom")
    else:
        (key,) = texts.match("token", _KEY, "the key of a group robot")
    return f"wecombot://{key}/"


def _teams(texts: _Texts) -> str:
    parts = split(texts.get("url"))
    if (
        parts is None
        or parts.scheme != "https"
        or not _TEAMS_HOST.fullmatch(parts.hostname or "")
        or not _TEAMS_PATH.fullmatch(parts.path)
    ):
        raise Undeliverable("args.url is not the address of a workflow of Teams")
    query = [(key, value) for key, value in parse_qsl(parts.query) if key in _TEAMS_QUERY]
    port = f":{parts.port}" if parts.port else ""
    return f"https://{parts.hostname}{port}{parts.path}?{urlencode([*query, ('image', 'no')])}"


def _mail(texts: _Texts) -> str:
    host, port = texts.match("server", _SERVER, "HOST or HOST:PORT")
    (sender,) = texts.match("from", _MAILBOX, "a mail address")
    recipients = texts.items("to")
    if not recipients or not all(_MAILBOX.fullmatch(recipient) for recipient in recipients):
        raise Undeliverable("args.to is not a list of mail addresses")
    user, password = texts.get("user"), texts.get("password")
    if bool(user) != bool(password):
        raise Undeliverable("args.user and args.password go together")
    login = f"{_quoted(user)}:{_quoted(password)}@" if user else ""
    query = {
        "smtp": host,
        "mode": "ssl" if texts.choice("security", Kind.SECURITY) == "tls" else "starttls",
        "from": sender,
        "to": ",".join(recipients),
    }
    return f"mailtos://{login}{host}{f':{port}' if port else ''}/?{urlencode(query)}"


def _apprise(texts: _Texts) -> str:
    return texts.match("url", _APPRISE, "an address of apprise: SERVICE://...")[0]


def _quoted(text: str) -> str:
    return quote(text, safe="")


_ADDRESSES: Mapping[str, Callable[[_Texts], str]] = {
    "slack": _slack,
    "discord": _discord,
    "mail": _mail,
    "telegram": _telegram,
    "feishu": _feishu,
    "dingtalk": _dingtalk,
    "wecom": _wecom,
    "teams": _teams,
    "apprise": _apprise,
}
