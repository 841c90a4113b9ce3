"""What a notification becomes on its way out: addresses for apprise, requests for webhooks, texts, pauses."""

from __future__ import annotations

import hashlib
import hmac
import json
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.channels import CHANNELS
from arcentra_server.domain.deliveries import (
    MOST_ATTEMPTS,
    AppriseMessage,
    Delivery,
    Undeliverable,
    WebhookMessage,
    again_in,
    message_of,
)
from arcentra_server.domain.notices import LONGEST_TEXT, LONGEST_TITLE, Notice
from arcentra_server.domain.states import RunStatus

RUN = UUID("01940000-0000-7000-8000-000000000002")
NOTICE = Notice(
    notification_id=UUID("01940000-0000-7000-8000-000000000001"),
    failed=True,
    namespace="default",
    pipeline_id=UUID("01940000-0000-7000-8000-000000000003"),
    pipeline="build",
    run_id=RUN,
    job_run_id=UUID("01940000-0000-7000-8000-000000000004"),
    job="test",
    status=RunStatus.FAILED,
    reason="script",
    error="exit code 2",
    branch="main",
    commit="0123abc",
    duration_ms=125_400,
    finished_at=datetime(2026, 1, 1, tzinfo=UTC),
)
TEAMS = "https://prod-1.westus.logic.azure.com:443/workflows/643e69f/triggers/manual/paths/invoke"
ADDRESSES: list[tuple[str, dict[str, Any], str]] = [
    ("slack", {"url": "https://hooks.slack.com/services/T1/B2/c3"}, "slack://T1/B2/c3/?image=no&footer=no"),
    ("slack", {"token": "xoxb-1-2-a", "channel": "#b/c?d"}, "slack://xoxb-1-2-a/%23b%2Fc%3Fd/?image=no&footer=no"),
    (
        "discord",
        {"url": "https://discord.com/api/webhooks/12/a_b-c"},
        "discord://12/a_b-c/?image=no&footer=no&avatar=no",
    ),
    ("telegram", {"token": "12:ab_c", "chat": -100123.0}, "tgram://12:ab_c/-100123/?image=no&preview=no&detect=no"),
    ("telegram", {"token": "12:ab_c", "chat": "@ci"}, "tgram://12:ab_c/%40ci/?image=no&preview=no&detect=no"),
    ("feishu", {"url": "https://open.feishu.cn/open-apis/bot/v2/hook/ab-c"}, "feishu://ab-c/"),
    ("feishu", {"url": "https://open.larksuite.com/open-apis/bot/v2/hook/ab-c"}, "lark://ab-c/"),
    ("feishu", {"token": "ab-c"}, "feishu://ab-c/"),
    ("dingtalk", {"url": "https://oapi.dingtalk.com/robot/send?access_token=ab1"}, "dingtalk://ab1/"),
    ("dingtalk", {"token": "ab1", "secret": "SECff"}, "dingtalk://SECff@ab1/"),
    ("wecom", {"url": "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=ab-c"}, "wecombot://ab-c/"),
    ("wecom", {"token": "ab-c\n"}, "wecombot://ab-c/"),
    (
        "teams",
        {"url": f"{TEAMS}?api-version=2016-06-01&sp=%2Frun&sv=1.0&sig=s-x&template=/etc/passwd"},
        f"{TEAMS}?api-version=2016-06-01&sp=%2Frun&sv=1.0&sig=s-x&image=no",
    ),
    (
        "mail",
        {"server": "smtp.example.com", "from": "ci@example.com", "to": ["a@example.com", "b@example.com"]},
        (
            "mailtos://smtp.example.com/?smtp=smtp.example.com&mode=starttls&from=ci%40example.com"
            "&to=a%40example.com%2Cb%40example.com&format=text"
        ),
    ),
    (
        "mail",
        {
            "server": "smtp.example.com:465",
            "security": "tls",
            "user": "ci@example.com",
            "password": "p@ss:/?#",
            "from": "ci@example.com",
            "to": "a@example.com , b@example.com",
            "format": "markdown",
        },
        (
            "mailtos://ci%40example.com:p%40ss%3A%2F%3F%23@smtp.example.com:465/?smtp=smtp.example.com&mode=ssl"
            "&from=ci%40example.com&to=a%40example.com%2Cb%40example.com&format=html"
        ),
    ),
    ("apprise", {"url": "ntfys://tok@ntfy.example.com/builds"}, "ntfys://tok@ntfy.example.com/builds"),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("pager", {}, "no such channel"),
    ("slack", {"url": ""}, "args: `url`, or `token` and `channel` must be given"),
    (
        "slack",
        {"url": "https://evil.example.com/services/T1/B2/c3"},
        "args.url is not the address of an incoming webhook of Slack",
    ),
    (
        "slack",
        {"url": "https://hooks.slack.com/services/T1/B2/c3?template=/etc/passwd"},
        "args.url is not the address of an incoming webhook of Slack",
    ),
    ("slack", {"token": "xoxb-1/../?x", "channel": "#a"}, "args.token is not a token of Slack"),
    ("slack", {"token": "xoxb-1", "channel": ["a"]}, "args.channel is not a text"),
    (
        "discord",
        {"url": "http://discord.com/api/webhooks/12/abc"},
        "args.url is not the address of a webhook of Discord",
    ),
    ("telegram", {"token": "abc", "chat": "1"}, "args.token is not the token of a bot"),
    ("feishu", {"token": "a/b"}, "args.token is not the token of a bot"),
    ("dingtalk", {"token": "ab1", "secret": "a@b"}, "args.secret is not the signing secret of a robot"),
    ("wecom", {"url": "https://qyapi.weixin.qq.com/x"}, "args.url is not the address of a group robot of WeCom"),
    ("teams", {"url": TEAMS.replace("https", "http")}, "args.url is not the address of a workflow of Teams"),
    ("teams", {"url": "https://[x/"}, "args.url is not the address of a workflow of Teams"),
    ("mail", {"server": "smtp", "from": "ci", "to": "a@b.c"}, "args.from is not a mail address"),
    ("mail", {"server": "smtp", "from": "ci@b.c", "to": "a@b.c,d"}, "args.to is not a list of mail addresses"),
    ("mail", {"server": "smtp", "from": "ci@b.c", "to": [{}]}, "args.to is not a list of texts"),
    ("mail", {"server": "smtp/x", "from": "ci@b.c", "to": "a@b.c"}, "args.server is not HOST or HOST:PORT"),
    (
        "mail",
        {"server": "smtp", "from": "ci@b.c", "to": "a@b.c", "user": "ci"},
        "args.user and args.password go together",
    ),
    (
        "mail",
        {"server": "smtp", "from": "ci@b.c", "to": "a@b.c", "security": "none"},
        "args.security is none of starttls, tls",
    ),
    ("apprise", {"url": "hunter2"}, "args.url is not an address of apprise: SERVICE://..."),
    ("webhook", {"url": "ftp://example.com/"}, "args.url is not the address of a webhook: https://HOST/PATH"),
    ("webhook", {"url": "https:///x"}, "args.url is not the address of a webhook: https://HOST/PATH"),
    ("webhook", {"url": "https://[x"}, "args.url is not the address of a webhook: https://HOST/PATH"),
    (
        "webhook",
        {"url": "https://example.com/", "headers": {"X-A": "a\r\nX-B: c"}},
        "args.headers.X-A is not a text of one line in ASCII",
    ),
    ("webhook", {"url": "https://example.com/", "headers": "x"}, "args.headers is not a mapping"),
]


@pytest.mark.parametrize(("plugin", "args", "address"), ADDRESSES)
def test_addresses(plugin: str, args: dict[str, Any], address: str) -> None:
    message = message_of(plugin, args, NOTICE)
    assert isinstance(message, AppriseMessage)
    assert message.url == address


@pytest.mark.parametrize(("plugin", "args", "error"), REFUSED)
def test_refused(plugin: str, args: dict[str, Any], error: str) -> None:
    with pytest.raises(Undeliverable) as caught:
        message_of(plugin, args, NOTICE)
    assert str(caught.value) == error


def test_webhook() -> None:
    args = {"url": "https://example.com/x", "secret": "s3", "headers": {"Authorization": "Bearer x\n".strip()}}
    message = message_of("webhook", args, NOTICE)
    assert isinstance(message, WebhookMessage)
    assert json.loads(message.body) == {
        "event": "job.failure",
        "notification_id": str(NOTICE.notification_id),
        "namespace": "default",
        "pipeline": "build",
        "pipeline_id": str(NOTICE.pipeline_id),
        "run_id": str(RUN),
        "job": "test",
        "job_run_id": str(NOTICE.job_run_id),
        "status": "FAILED",
        "reason": "script",
        "error": "exit code 2",
        "branch": "main",
        "commit": "0123abc",
        "duration_ms": 125_400,
        "finished_at": 1_767_225_600,
        "link": "",
        "title": "pipeline build: job test failed",
        "text": f"Reason: script: exit code 2\nBranch: main\nCommit: 0123abc\nTook: 2m5s\nRun: {RUN}",
    }
    assert message.headers == {
        "Authorization": "Bearer x",
        "Content-Type": "application/json",
        "X-Arcentra-Event": "job.failure",
        "X-Arcentra-Delivery": str(NOTICE.notification_id),
        "X-Arcentra-Signature": "sha256=" + hmac.new(b"s3", message.body.encode(), hashlib.sha256).hexdigest(),
    }


def test_webhook_without_a_secret_is_not_signed() -> None:
    message = message_of("webhook", {"url": "https://example.com/x"}, replace(NOTICE, failed=False))
    assert isinstance(message, WebhookMessage)
    assert "X-Arcentra-Signature" not in message.headers
    assert message.headers["X-Arcentra-Event"] == "job.success"


def _said(args: dict[str, Any], notice: Notice = NOTICE) -> tuple[str, str]:
    message = message_of("feishu", {"token": "t", **args}, notice)
    assert isinstance(message, AppriseMessage)
    return message.title, message.text


@pytest.mark.parametrize(
    ("status", "failed", "words"),
    [
        (RunStatus.SUCCESS, False, "succeeded"),
        (RunStatus.PARTIAL, False, "succeeded in part"),
        (RunStatus.FAILED, True, "failed"),
        (RunStatus.TIMEOUT, True, "ran out of time"),
        (RunStatus.CANCELLED, True, "was cancelled"),
    ],
)
def test_default_titles(status: RunStatus, failed: bool, words: str) -> None:
    title, text = _said({}, replace(NOTICE, status=status, failed=failed))
    assert title == f"pipeline build: job test {words}"
    assert ("Reason" in text) is failed


def test_texts_in_markdown_hold_facts_as_code() -> None:
    notice = replace(NOTICE, branch="fix_`x`_*y*", error="", reason="", link="https://ci.example.com/runs/1")
    title, text = _said({"format": "markdown"}, notice)
    assert title == "pipeline `build`: job `test` failed"
    assert text.splitlines()[0] == "- Branch: `fix_'x'_*y*`"
    assert text.splitlines()[-1] == "- https://ci.example.com/runs/1"


def test_own_texts_are_cleaned_and_cut() -> None:
    title, text = _said({"title": "a\r\n b\x07\u202e" + "c" * 300, "text": "line\r\nline\x00" + "x" * 9_000})
    assert title.startswith("a b cc")
    assert (len(title), title[-1]) == (LONGEST_TITLE, "…")
    assert text.startswith("line\nlinexx")
    assert len(text) == LONGEST_TEXT


def test_messages_of_errors_are_kept_to_a_line() -> None:
    _, text = _said({}, replace(NOTICE, error="boom\nBranch: other\n" + "x" * 5_000))
    assert text.count("Branch: other") == 1
    assert text.splitlines()[0].startswith("Reason: script: boom Branch: other")
    assert len(text.splitlines()[0]) < 400


def test_error_reaches_no_more_than_the_name_of_an_argument() -> None:
    """For each channel: whatever is in an argument, what is logged does not hold it."""
    for name, channel in CHANNELS.items():
        args = dict.fromkeys(channel.one_of[0], "hunter2 \x00://")
        with pytest.raises(Undeliverable) as caught:
            message_of(name, args, NOTICE)
        assert "hunter2" not in str(caught.value)


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip))
def test_mail_credentials_cannot_leave_their_place_in_the_address(user: str, password: str) -> None:
    args = {"server": "smtp.example.com", "from": "ci@b.c", "to": "a@b.c", "user": user, "password": password}
    try:
        message = message_of("mail", args, NOTICE)
    except Undeliverable:
        return
    assert isinstance(message, AppriseMessage)
    parts = urlsplit(message.url)
    assert (parts.hostname, parts.path) == ("smtp.example.com", "/")
    assert set(parse_qs(parts.query)) == {"smtp", "mode", "from", "to", "format"}
    kept = (unquote(parts.username or ""), unquote(parts.password or ""))
    assert kept == (_clean(user), _clean(password))


def _clean(text: str) -> str:
    return "".join(one for one in text if unicodedata.category(one) != "Cc" or one in "\n\t").strip()


@given(st.text())
def test_chat_cannot_leave_its_place_in_the_address(chat: str) -> None:
    try:
        message = message_of("telegram", {"token": "1:a", "chat": chat}, NOTICE)
    except Undeliverable:
        return
    assert isinstance(message, AppriseMessage)
    path, _, query = message.url.partition("?")
    assert query == "image=no&preview=no&detect=no"
    assert path.count("/") == 4


def test_pauses_grow_and_end() -> None:
    failed = Delivery(delivered=False)
    pauses = [again_in(number, failed, 0.5) for number in range(1, MOST_ATTEMPTS + 1)]
    assert [pause and pause.total_seconds() for pause in pauses] == [10, 60, 300, 1_800, 7_200, None]
    assert again_in(1, Delivery(delivered=True), 0.5) is None
    assert again_in(1, Delivery(delivered=False, permanent=True), 0.5) is None


@given(st.integers(1, MOST_ATTEMPTS - 1), st.floats(0, 1))
def test_jitter_is_a_fifth(number: int, jitter: float) -> None:
    pause, middle = (
        again_in(number, Delivery(delivered=False), jitter),
        again_in(number, Delivery(delivered=False), 0.5),
    )
    assert pause is not None
    assert middle is not None
    assert 0.79 <= pause / middle <= 1.21
