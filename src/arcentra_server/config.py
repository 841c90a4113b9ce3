"""The configuration: read once, checked as a whole, frozen. Unknown keys are errors.

Sources, the first wins: command line, environment (`ARCENTRA_GRPC__LISTEN`), the file of `--config` (TOML), defaults.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from arcentra_server.notify.egress import Allowed

_STRICT = ConfigDict(frozen=True, extra="forbid")


class ConfigError(Exception):
    """The configuration is wrong; the text names each fault and where it stands."""


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ValueError("write HOST:PORT, for example 127.0.0.1:9090; port 0 picks a free one")
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Address = Annotated[str, AfterValidator(_address)]


def default_data_dir() -> Path:
    """Return where the data is kept unless it is said: /var/lib for root, the user's own folder for others."""
    if os.geteuid() == 0:
        return Path("/var/lib/arcentra-server")
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "arcentra-server"


class GrpcConfig(BaseModel):
    """The gRPC server."""

    model_config = _STRICT
    listen: Address = "127.0.0.1:9090"
    drain_seconds: float = Field(default=10.0, ge=0, le=600)
    insecure: bool = False

    @model_validator(mode="after")
    def _loopback_or_said_so(self) -> Self:
        """Refuse to send tokens in clear over a network by accident (security.md, S43)."""
        host = self.listen.rpartition(":")[0].strip("[]")
        if not self.insecure and host != "localhost" and not _is_loopback(host):
            raise ValueError(
                f"listen={self.listen} would take tokens in clear from the network: listen on 127.0.0.1 behind a proxy"
                " that speaks TLS, or set grpc.insecure = true if the network is trusted"
            )
        return self


class HttpConfig(BaseModel):
    """The HTTP server: health, readiness, metrics, webhooks."""

    model_config = _STRICT
    listen: Address = "127.0.0.1:8080"


class DatabaseConfig(BaseModel):
    """PostgreSQL. No `url`: the embedded one in the data directory."""

    model_config = _STRICT
    url: SecretStr | None = None
    pool_size: int = Field(default=12, ge=4, le=200)


class AgentsConfig(BaseModel):
    """How agents are kept in touch with. Their credentials are good for `token_hours`, 0 for ever."""

    model_config = _STRICT
    heartbeat_seconds: float = Field(default=10.0, ge=0.1, le=300)
    lease_seconds: float = Field(default=30.0, ge=1, le=3_600)
    token_hours: float = Field(default=24.0, ge=0, le=24 * 3_650)

    @field_validator("token_hours")
    @classmethod
    def _time_to_rotate(cls, token_hours: float) -> float:
        if 0 < token_hours < 1:
            raise ValueError("token_hours must be at least 1, or 0 for credentials without an end")
        return token_hours

    @model_validator(mode="after")
    def _two_heartbeats_a_lease(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least twice heartbeat_seconds: one heartbeat may be late")
        return self


class PipelinesConfig(BaseModel):
    """The runs of pipelines."""

    model_config = _STRICT
    job_timeout_hours: float = Field(default=6.0, gt=0, le=24 * 30)


class LogsConfig(BaseModel):
    """The logs of step runs."""

    model_config = _STRICT
    largest_step_mib: int = Field(default=512, ge=1, le=102_400)


class SecretsConfig(BaseModel):
    """The secrets of steps. No `key_file`: `secrets.key` in the data directory, made at the first start."""

    model_config = _STRICT
    key_file: Path | None = None


class NotificationsConfig(BaseModel):
    """Notifications: what they may reach beyond the public internet, and how many are sent at a time.

    `run_url` is the address of a page about a run, with `{run_id}` in it; messages then link to it.
    """

    model_config = _STRICT
    allow: tuple[str, ...] = ()
    allow_http: bool = False
    workers: int = Field(default=2, ge=1, le=16)
    run_url: str = ""

    @field_validator("allow")
    @classmethod
    def _destinations(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        Allowed.of(allow)
        return allow

    @field_validator("run_url")
    @classmethod
    def _link(cls, run_url: str) -> str:
        if run_url and not (run_url.startswith(("https://", "http://")) and "{run_id}" in run_url):
            raise ValueError("write an address with {run_id} in it, for example https://ci.example.com/runs/{run_id}")
        return run_url


class TriggersConfig(BaseModel):
    """Schedules and webhooks, and how long the ledger of them is kept.

    A tick that no server looked at for `late_seconds` was missed.
    """

    model_config = _STRICT
    late_seconds: float = Field(default=60.0, ge=20, le=86_400)
    ledger_days: float = Field(default=30.0, gt=0, le=3_650)
    ledger_entries: int = Field(default=100_000, ge=1_000, le=10_000_000)


class Config(BaseSettings):
    """Everything that can be set. Paths are absolute once read."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="ARCENTRA_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )
    data_dir: Path = Field(default_factory=default_data_dir)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    database: DatabaseConfig = DatabaseConfig()
    agents: AgentsConfig = AgentsConfig()
    pipelines: PipelinesConfig = PipelinesConfig()
    logs: LogsConfig = LogsConfig()
    secrets: SecretsConfig = SecretsConfig()
    notifications: NotificationsConfig = NotificationsConfig()
    triggers: TriggersConfig = TriggersConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - see above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - see above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave out .env files and secret folders: what is not named does not count."""
        return init_settings, env_settings


def load(path: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Read the configuration.

    Args:
        path: A TOML file, None for none.
        overrides: What the command line says, nested as in `Config`; entries that are None do not count.

    Raises:
        ConfigError: a file cannot be read, or something in it is wrong.
    """
    values = _read(path) if path is not None else {}
    try:
        return Config(**_merged(_below_environment(values), _without_none(overrides)))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, fault['loc']))}: {_plain(fault['msg'])}" for fault in error.errors()]
        source = f"{path}: " if path else ""
        raise ConfigError("\n".join(source + line for line in lines)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _below_environment(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the environment sets, which wins over the file."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            kept[key] = {
                inner: entry for inner, entry in value.items() if f"ARCENTRA_{key}__{inner}".upper() not in os.environ
            }
        elif f"ARCENTRA_{key}".upper() not in os.environ:
            kept[key] = value
    return kept


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
    return {key: value for key, value in cleaned.items() if value != {}}


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, Mapping) else value
    return merged


def _plain(message: str) -> str:
    return "no such setting" if message.startswith("Extra inputs") else message.removeprefix("Value error, ")
