"""Sending one message, and saying how it went in words that hold no address, no token and nothing of an answer."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import apprise
import requests
from apprise.plugins import NotifyBase

from arcentra_server.notify.egress import NOT_ALLOWED, Egress
from arcentra_server.notify.http import MOST_REDIRECTS, LastAnswer, describe

_KEEPS_ITS_BODY = {307, 308}  # the redirects after which a POST is still a POST
_OURS = ("content-type", "x-arcentra-")
_MAIL_STEPS = {
    "connect": "cannot connect to the mail server, or TLS failed",
    "starttls": "no secure connection to the mail server",
    "login": "the mail server did not accept user and password",
    "sendmail": "the mail server did not take the message",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went. `permanent`: trying again changes nothing."""

    delivered: bool
    error: str = ""
    permanent: bool = False


class Sender:
    """Sends messages; the limits of the process are set up already.

    Args:
        egress: Knows whether a destination was refused.
        answer: Knows what the last request came to.
        seconds: For a connection.
        allow_insecure: Whether services may be used that do not speak TLS.
    """

    def __init__(self, egress: Egress, answer: LastAnswer, *, seconds: float, allow_insecure: bool) -> None:
        self._egress = egress
        self._answer = answer
        self._seconds = seconds
        self._allow_insecure = allow_insecure
        self._asset = apprise.AppriseAsset(
            app_id="Arcentra",
            app_desc="Arcentra",
            app_url="",
            async_mode=False,
            interpret_emojis=False,
            storage_mode=apprise.PersistentStoreMode.MEMORY,
            pgp_autogen=False,
            pem_autogen=False,
            service_timeout=0,
        )
        # Loaded with the first address, which takes a second or two.
        apprise.Apprise.instantiate("json://localhost", asset=self._asset)
        _note_mail_faults(answer)

    def send(self, message: Mapping[str, Any]) -> Outcome:
        """Send a message as `services/notifier.py` describes it."""
        self._egress.begin()
        self._answer.begin()
        try:
            outcome = self._post(message) if message["kind"] == "webhook" else self._tell(message)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
            outcome = Outcome(delivered=False, error="the address cannot be used", permanent=True)
        except requests.RequestException as error:
            outcome = Outcome(delivered=False, error=describe(error))
        except OSError:
            outcome = Outcome(delivered=False, error="cannot connect")
        if not outcome.delivered and self._egress.refused:
            return Outcome(delivered=False, error=NOT_ALLOWED, permanent=True)
        if not outcome.delivered and self._egress.unknown_host:
            return Outcome(delivered=False, error="there is no host of this name")
        return outcome

    def _post(self, message: Mapping[str, Any]) -> Outcome:
        url, headers = str(message["url"]), dict(message["headers"])
        headers["User-Agent"] = "Arcentra"
        with requests.Session() as session:
            for _ in range(MOST_REDIRECTS + 1):
                body = str(message["body"]).encode()
                response = session.post(url, data=body, headers=headers, allow_redirects=False)
                if response.status_code not in _KEEPS_ITS_BODY:
                    return self._judged(delivered=200 <= response.status_code < 300)
                target = urljoin(url, response.headers.get("Location", ""))
                if _origin(target) != _origin(url):
                    # What the user set, as a password, is for the server that was named.
                    headers = {name: text for name, text in headers.items() if name.lower().startswith(_OURS)}
                url = target
        raise requests.TooManyRedirects

    def _tell(self, message: Mapping[str, Any]) -> Outcome:
        service = apprise.Apprise.instantiate(message["url"], asset=self._asset)
        if not isinstance(service, NotifyBase):
            text = "apprise does not know this address, or something in it is missing"
            return Outcome(delivered=False, error=text, permanent=True)
        if not self._allow_insecure and not _speaks_tls(service):
            text = f"{NOT_ALLOWED}: the service is not reached by TLS"
            return Outcome(delivered=False, error=text, permanent=True)
        # The address may ask for less.
        service.verify_certificate = True
        service.socket_connect_timeout = service.socket_read_timeout = self._seconds
        channel = apprise.Apprise(asset=self._asset)
        channel.add(service)
        result = channel.notify(
            title=message["title"],
            body=message["text"],
            notify_type=apprise.NotifyType.FAILURE if message["failed"] else apprise.NotifyType.SUCCESS,
            body_format=apprise.NotifyFormat.MARKDOWN if message["markdown"] else apprise.NotifyFormat.TEXT,
        )
        if result and (code := self._answer.code()):
            return Outcome(delivered=False, error=f"the service did not take the message: code {code}")
        return self._judged(delivered=bool(result))

    def _judged(self, *, delivered: bool) -> Outcome:
        """Return the outcome by what is known of the last answer."""
        answer = self._answer
        if delivered:
            return Outcome(delivered=True)
        if answer.fault:
            return Outcome(delivered=False, error=answer.fault)
        if answer.status and not 200 <= answer.status < 300:
            return Outcome(delivered=False, error=f"the server answered with status {answer.status}")
        return Outcome(delivered=False, error="the service did not take the message")


def _speaks_tls(service: NotifyBase) -> bool:
    secure: str | Iterable[str] | None = service.secure_protocol
    schemes = {secure} if isinstance(secure, str) else set(secure or ())
    # Mail is named by its scheme, and may be told otherwise by an option.
    return service.schema in schemes and getattr(service, "secure_mode", "") != "insecure"


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()


def _note_mail_faults(answer: LastAnswer) -> None:
    """Note at which step of sending a mail something failed; apprise says that it did, and nothing more."""
    for name, words in _MAIL_STEPS.items():
        setattr(smtplib.SMTP, name, _noting(getattr(smtplib.SMTP, name), answer, words))


def _noting(step: Callable[..., Any], answer: LastAnswer, words: str) -> Callable[..., Any]:
    def noting(*arguments: Any, **named: Any) -> Any:
        try:
            return step(*arguments, **named)
        except Exception:
            answer.fault = answer.fault or words
            raise

    return noting
