"""The addresses that are made for services mean to apprise what they are to mean."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.unit.domain.test_deliveries import ADDRESSES

_READ = """
import json, sys, apprise
services = [apprise.Apprise.instantiate(url) for url in json.load(sys.stdin)]
names = ("mode", "token_a", "token_b", "token_c", "access_token", "channels", "webhook_id", "webhook_token", "bot_token",
         "token", "secret", "key", "workflow", "signature", "user", "password", "smtp_host", "secure_mode", "port",
         "from_addr", "targets", "template", "include_image")
def read(service):
    found = {name: getattr(service, name) for name in names if getattr(service, name, None)}
    return {"service": type(service).__name__, **found}
print(json.dumps([read(service) for service in services], default=lambda value: sorted(map(str, value))))
"""


@pytest.fixture(scope="module")
def read() -> list[dict[str, Any]]:
    """What apprise makes of each address, in a process of its own: this one does without it."""
    urls = json.dumps([url for _, _, url in ADDRESSES])
    done = subprocess.run([sys.executable, "-c", _READ], input=urls, capture_output=True, text=True, check=True)
    services: list[dict[str, Any]] = json.loads(done.stdout)
    return services


def test_every_address_is_one_of_its_service(read: list[dict[str, Any]]) -> None:
    assert [service["service"] for service in read] == [
        *("NotifySlack", "NotifySlack", "NotifyDiscord", "NotifyTelegram", "NotifyTelegram"),
        *("NotifyFeishu", "NotifyLark", "NotifyFeishu", "NotifyDingTalk", "NotifyDingTalk"),
        *("NotifyWeComBot", "NotifyWeComBot", "NotifyWorkflows", "NotifyEmail", "NotifyEmail", "NotifyNtfy"),
    ]


def test_every_part_arrives_where_it_belongs(read: list[dict[str, Any]]) -> None:
    mail = {"smtp_host": "smtp.example.com", "from_addr": [False, "ci@example.com"]}
    recipients = [[False, "a@example.com"], [False, "b@example.com"]]
    parts = [{name: part for name, part in service.items() if name != "service"} for service in read]
    assert parts[:-1] == [
        {"mode": "hook", "token_a": "T1", "token_b": "B2", "token_c": "c3", "channels": [None]},
        {"mode": "bot", "access_token": "xoxb-1-2-a", "channels": ["#b/c?d"]},
        {"webhook_id": "12", "webhook_token": "a_b-c"},
        {"bot_token": "12:ab_c", "targets": [[-100123, None]]},
        {"bot_token": "12:ab_c", "targets": [["@ci", None]]},
        {"token": "ab-c"},
        {"token": "ab-c"},
        {"token": "ab-c"},
        {"token": "ab1"},
        {"token": "ab1", "secret": "SECff", "user": "SECff"},
        {"key": "ab-c"},
        {"key": "ab-c"},
        {"workflow": "643e69f", "signature": "s-x", "port": 443},
        {**mail, "secure_mode": "starttls", "port": 587, "targets": recipients},
        {
            **mail,
            "secure_mode": "ssl",
            "port": 465,
            "targets": recipients,
            "user": "ci@example.com",
            "password": "p@ss:/?#",
        },
    ]
