"""Which notifications can be saved, and what is said of those that cannot."""

from __future__ import annotations

from typing import Any

import pytest

from arcentra_server.domain.channels import CHANNELS, check_notification, looks_clear
from arcentra_server.domain.definition import NotificationSpec

SECRET = "${{ secrets.HOOK }}"
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("webhook", {"url": "https://hooks.example.com/arcentra"}),
    ("webhook", {"url": "https://${{ variables['host'] }}/hook", "secret": SECRET}),
    ("webhook", {"url": f"https://hooks.example.com/{SECRET}?verbose=1"}),
    ("webhook", {"url": SECRET, "headers": {"X-Team": "build", "Authorization": f"Bearer {SECRET}"}}),
    ("slack", {"url": SECRET, "title": "Done", "text": "job ${{ job.name }}", "format": "markdown"}),
    ("slack", {"token": SECRET, "channel": "#builds"}),
    ("discord", {"url": SECRET}),
    ("telegram", {"token": SECRET, "chat": -1001234.0}),
    ("telegram", {"token": SECRET, "chat": "@builds"}),
    ("mail", {"server": "smtp.example.com:587", "from": "ci@example.com", "to": ["a@example.com", "b@example.com"]}),
    (
        "mail",
        {
            "server": "smtp.example.com",
            "security": "tls",
            "user": "ci",
            "password": SECRET,
            "from": "ci@example.com",
            "to": "a@example.com, b@example.com",
        },
    ),
    ("feishu", {"url": SECRET}),
    ("feishu", {"token": SECRET}),
    ("dingtalk", {"url": SECRET, "secret": SECRET}),
    ("wecom", {"token": SECRET}),
    ("teams", {"url": SECRET}),
    ("apprise", {"url": f"ntfys://{SECRET}@ntfy.example.com/builds", "format": "${{ variables.style }}"}),
]
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("webhok", {}, "plugin: 'webhok' is not known; did you mean 'webhook'?"),
    ("webhook", {}, "args: `url` must be given"),
    ("webhook", {"url": ""}, "args: `url` must be given"),
    (
        "webhook",
        {"url": "http://hooks.example.com/x"},
        "args.url: http:// is refused, as everybody on the way can read it; use https://",
    ),
    ("webhook", {"url": "hooks.example.com/x"}, "args.url: is not an address; write https://HOST/PATH"),
    ("webhook", {"url": "https://[::1/x"}, "args.url: is not an address; write https://HOST/PATH"),
    ("webhook", {"url": 3}, "args.url: is a text"),
    (
        "webhook",
        {"url": "https://example.com/hooks/7f3a9c1b2d4e5f60718293a4"},
        "args.url: holds a token in clear; use `${{ secrets.NAME }}` for it, or for the whole address",
    ),
    (
        "webhook",
        {"url": "https://example.com/", "secret": "hunter2"},
        "args.secret: stands there in clear; use `${{ secrets.NAME }}`",
    ),
    (
        "webhook",
        {"url": "https://example.com/", "headers": {"X-Api-Key": "abc"}},
        "args.headers.X-Api-Key: stands there in clear; use `${{ secrets.NAME }}`",
    ),
    (
        "webhook",
        {"url": "https://example.com/", "headers": {"Content-Length": "1"}},
        "args.headers: 'Content-Length' is not a header that can be set",
    ),
    (
        "webhook",
        {"url": "https://example.com/", "headers": {"X-A\r\nHost": "x"}},
        "args.headers: 'X-A\\r\\nHost' is not a header that can be set",
    ),
    ("webhook", {"url": "https://example.com/", "headers": {"X-A": 1}}, "args.headers.X-A: is a text"),
    ("webhook", {"url": "https://example.com/", "headers": "X-A: 1"}, "args.headers: is a mapping of names to texts"),
    (
        "slack",
        {"url": "https://hooks.slack.com/services/T0/B0/x"},
        "args.url: stands there in clear; use `${{ secrets.NAME }}`",
    ),
    ("slack", {"url": "${{ variables.HOOK }}"}, "args.url: stands there in clear; use `${{ secrets.NAME }}`"),
    ("slack", {"token": SECRET}, "args: `url`, or `token` and `channel` must be given"),
    (
        "slack",
        {"url": SECRET, "token": SECRET, "channel": "#x"},
        "args: only one of `url`, or `token` and `channel` can be given",
    ),
    ("slack", {"url": SECRET, "chanel": "#x"}, "args.chanel: 'chanel' is not known; did you mean 'channel'?"),
    ("slack", {"url": SECRET, "format": "html"}, "args.format: 'html' is not known; one of text, markdown"),
    ("telegram", {"token": SECRET, "chat": 1.5}, "args.chat: is a text"),
    ("telegram", {"token": SECRET, "chat": True}, "args.chat: is a text"),
    (
        "mail",
        {"server": "smtp.example.com", "from": "ci@example.com", "to": [1]},
        "args.to: is a text or a list of texts",
    ),
    (
        "mail",
        {"server": "smtp.example.com", "from": "ci@example.com", "to": "a@example.com", "security": "none"},
        "args.security: 'none' is not known; one of starttls, tls",
    ),
    ("apprise", {"url": "ntfys://ntfy.example.com/x"}, "args.url: stands there in clear; use `${{ secrets.NAME }}`"),
]


@pytest.mark.parametrize(("plugin", "args"), GOOD, ids=lambda value: value if isinstance(value, str) else "")
def test_good(plugin: str, args: dict[str, Any]) -> None:
    assert check_notification(NotificationSpec(plugin, args=args)) == []
    assert check_notification(NotificationSpec(plugin, "send", args)) == []


@pytest.mark.parametrize(("plugin", "args", "fault"), BAD, ids=[fault[:50] for _, _, fault in BAD])
def test_bad(plugin: str, args: dict[str, Any], fault: str) -> None:
    assert check_notification(NotificationSpec(plugin, args=args)) == [fault]


def test_every_channel_has_a_good_and_a_bad_case() -> None:
    assert {plugin for plugin, _ in GOOD} == set(CHANNELS)


def test_all_faults_are_named_at_once() -> None:
    spec = NotificationSpec("slack", "delete", {"url": "x", "color": "red", "format": "html"})
    assert check_notification(spec) == [
        "action: is empty or `send`, not 'delete'",
        "args.url: stands there in clear; use `${{ secrets.NAME }}`",
        "args.color: 'color' is not known; one of url, token, channel, title, text, format",
        "args.format: 'html' is not known; one of text, markdown",
    ]


@pytest.mark.parametrize(
    ("address", "clear"),
    [
        ("https://example.com/hooks/build-finished", False),
        ("https://example.com/a-very-long-but-plain-path-name/x", False),
        ("https://example.com/hooks?verbose=1&level=2", False),
        (f"https://{SECRET}:{SECRET}@example.com/", False),
        (f"https://example.com/?token={SECRET}", False),
        ("https://user:pass@example.com/", True),
        ("https://user@example.com/", True),
        ("https://example.com/?token=1", True),
        ("https://example.com/?Signature=1", True),
        ("https://example.com/550e8400-e29b-41d4-a716-446655440000", True),
        ("https://example.com/?x=7f3a9c1b2d4e5f60718293a4", True),
    ],
)
def test_tokens_in_addresses(address: str, clear: bool) -> None:
    assert looks_clear(address) is clear
