"""From a delivery to its event, for every code host."""

from __future__ import annotations

from collections.abc import Mapping

from arcentra_server.domain import forge_generic, forge_github, forge_gitlab
from arcentra_server.domain.forge import Forge, ForgeEvent
from arcentra_server.domain.forge_payload import PayloadError, read_body

# The header that names a delivery. GitLab's event UUID is none: events that follow from each other share it.
DELIVERY_HEADERS = {
    Forge.GITHUB: "x-github-delivery",
    Forge.GITLAB: "idempotency-key",
    Forge.GITEA: "x-gitea-delivery",
    Forge.GENERIC: "x-arcentra-delivery",
}
LONGEST_DELIVERY_ID = 128


def read_event(forge: Forge, headers: Mapping[str, str], body: bytes) -> ForgeEvent:
    """Read a delivery whose signature is good.

    Args:
        forge: Who sends.
        headers: Its headers, names in small letters.
        body: Its body.

    Raises:
        PayloadError: the body is not JSON, or not what this sender sends.
    """
    payload = read_body(body, headers.get("content-type", ""))
    match forge:
        case Forge.GITLAB:
            return forge_gitlab.read(payload)
        case Forge.GENERIC:
            return forge_generic.read(payload)
        case Forge.GITHUB | Forge.GITEA:
            name = f"x-{forge.lower()}-event"
            event = headers.get(name, "")
            if not event or not event.isascii() or not event.isprintable() or len(event) > 64:
                raise PayloadError(f"the header {name} does not name an event")
            return forge_github.read(event, payload, forge)


def delivery_id(forge: Forge, headers: Mapping[str, str]) -> str:
    """Return the id that the sender gave to a delivery; empty when it gave none that can be used."""
    text = headers.get(DELIVERY_HEADERS[forge], "").strip()
    return text if text.isascii() and text.isprintable() and len(text) <= LONGEST_DELIVERY_ID else ""
