"""Limits on every HTTP request of this process, whichever library makes it through `requests`."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from arcentra_server.notify.egress import Egress

MOST_REDIRECTS = 3
LARGEST_ANSWER = 1024 * 1024
_CHUNK = 64 * 1024


class AnswerTooLarge(requests.RequestException):
    """A server answered more than is read."""


class AnswerTooSlow(requests.RequestException):
    """A server answered, but not to the end in the time that it has."""


@dataclass(slots=True)
class LastAnswer:
    """What the last request of a message came to. Libraries keep most of it to themselves."""

    status: int = 0
    fault: str = ""
    body: bytes = b""

    def begin(self) -> None:
        """Begin a new message."""
        self.status, self.fault, self.body = 0, "", b""

    def code(self) -> int:
        """Return the code of an error that a service puts into the body of a good answer, 0 for none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return 0
        code = document.get("errcode", 0) if isinstance(document, Mapping) else 0
        return code if isinstance(code, int) else 0


def limit_requests(egress: Egress, answer: LastAnswer, *, seconds: float, allow_http: bool, roots: str | bool) -> None:
    """Put the limits on all requests from now on.

    Args:
        egress: Is told of what is refused.
        answer: Is told how requests go.
        seconds: For the connection, and for each answer as a whole.
        allow_http: Whether http:// may be used.
        roots: A file of certificates to trust, True for those of `certifi`.
    """
    send, prepare = HTTPAdapter.send, requests.Session.__init__

    def limited(
        self: HTTPAdapter, request: requests.PreparedRequest, *_: Any, **__: Any
    ) -> requests.Response:  # what callers ask for beyond the request is not theirs to choose here
        if urlsplit(request.url or "").scheme != "https" and not allow_http:
            raise egress.refuse()
        request.headers["Accept-Encoding"] = "identity"
        deadline = time.monotonic() + seconds
        try:
            response = send(self, request, stream=True, timeout=seconds, verify=roots)
            _read(response, deadline)
        except requests.RequestException as error:
            answer.fault = answer.fault or describe(error)
            raise
        answer.status, answer.body = response.status_code, response.content
        return response

    def prepared(self: requests.Session) -> None:
        prepare(self)
        self.trust_env = False  # no proxies, and no passwords from a .netrc
        self.max_redirects = MOST_REDIRECTS

    HTTPAdapter.send = limited  # type: ignore[method-assign]
    requests.Session.__init__ = prepared  # type: ignore[method-assign]


def describe(error: BaseException) -> str:
    """Return what went wrong, in words of our own: texts of libraries hold addresses."""
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    return "the request failed"


_WORDS: Mapping[type[BaseException], str] = {
    AnswerTooLarge: "the answer is larger than 1 MiB",
    AnswerTooSlow: "no answer in time",
    requests.Timeout: "no answer in time",
    requests.TooManyRedirects: f"more than {MOST_REDIRECTS} redirects",
    requests.exceptions.SSLError: "no secure connection: the certificate is not trusted, or TLS failed",
    requests.ConnectionError: "cannot connect",
}


def _read(response: requests.Response, deadline: float) -> None:
    """Read the body within the limits. It is not unpacked, so that it cannot grow."""
    raw = response.raw
    body = bytearray()
    try:
        while chunk := raw.read1(_CHUNK, decode_content=False):
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise AnswerTooLarge
            if time.monotonic() > deadline:
                raise AnswerTooSlow
    except requests.RequestException:  # those above, which are kinds of `OSError`
        raise
    except urllib3.exceptions.ReadTimeoutError as error:
        raise AnswerTooSlow from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise requests.ConnectionError from error
    finally:
        raw.close()
    response.raw = io.BytesIO()
    response._content = bytes(body)  # noqa: SLF001 - the one way to hand over a body that was read
    response._content_consumed = True  # noqa: SLF001
