"""The deliveries of `tests/data/webhooks`: bodies as the code hosts document them, signed with one secret."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arcentra_server.domain.forge import Forge

SECRET = "correct horse battery staple"
FOLDER = Path(__file__).parents[1] / "data" / "webhooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Delivery:
    """A delivery as it comes; the names of its headers in small letters."""

    forge: Forge
    headers: Mapping[str, str]
    body: bytes

    def without(self, *names: str) -> Delivery:
        return replace(self, headers={name: text for name, text in self.headers.items() if name not in names})

    def with_headers(self, **headers: str) -> Delivery:
        return replace(
            self, headers={**self.headers, **{name.replace("_", "-"): text for name, text in headers.items()}}
        )

    def signed(self, secret: str) -> Delivery:
        """The same, from somebody who knows this secret."""
        return replace(self, headers={**self.headers, **signature(self.forge, self.body, secret)})


def delivery(name: str) -> Delivery:
    """Read one of the files."""
    headers = {}
    for line in (FOLDER / f"{name}.headers").read_text().splitlines():
        key, _, value = line.partition(": ")
        headers[key.lower()] = value
    return Delivery(Forge(name.partition("_")[0].upper()), headers, (FOLDER / f"{name}.json").read_bytes())


def generic(body: Mapping[str, Any], secret: str = SECRET, delivery_id: str = "") -> Delivery:
    """Build a delivery of a generic hook."""
    given = {"x-arcentra-delivery": delivery_id} if delivery_id else {}
    made = Delivery(Forge.GENERIC, {"content-type": "application/json", **given}, json.dumps(body).encode())
    return made.signed(secret)


def signature(forge: Forge, body: bytes, secret: str) -> dict[str, str]:
    """Return the header by which a sender shows that it knows the secret."""
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    match forge:
        case Forge.GITHUB:
            return {"x-hub-signature-256": f"sha256={mac}"}
        case Forge.GITLAB:
            return {"x-gitlab-token": secret}
        case Forge.GITEA:
            return {"x-gitea-signature": mac}
        case Forge.GENERIC:
            return {"x-arcentra-signature": f"sha256={mac}"}
