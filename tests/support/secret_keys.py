"""The key that tests seal secrets with."""

import os

from arcentra_server.db.engine import Database
from arcentra_server.db.vault import Vault
from arcentra_server.domain.secret_box import KeyRing
from arcentra_server.services.secrets import SecretService

KEYS = KeyRing({"test": b"s" * 32})  # as that of tests/support/world.py


def vault() -> Vault:
    return Vault(KEYS)


def secret_service(database: Database, keys: KeyRing = KEYS) -> SecretService:
    return SecretService(database, keys, os.urandom)
