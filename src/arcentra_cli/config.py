"""Which server a command talks to, and with which token: options, then environment, then login, then this host."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from arcentra_cli.address import DEFAULT_SERVER, Address, parse_address
from arcentra_cli.errors import CliError
from arcentra_cli.exit_codes import ExitCode
from arcentra_cli.login_file import Login, Logins

ADMIN_TOKEN = "admin.token"  # noqa: S105 - the name of a file


class OutputFormat(StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options of one command, as given; None and False where they were not."""

    server: str | None = None
    token: str | None = None
    namespace: str | None = None
    output: OutputFormat = OutputFormat.TABLE
    tls: bool = False
    ca_file: Path | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and how to reach it; `token` is empty when none was found."""

    address: Address
    ca_file: Path | None = None
    insecure: bool = False
    token: str = ""
    token_source: str = ""
    # Token files that exist but could not be read, each with the reason.
    unreadable: tuple[str, ...] = ()

    def require_token(self) -> str:
        """The token.

        Raises:
            CliError: there is none, or it would travel in clear text over a network.
        """
        if not self.token:
            raise CliError(
                f"not logged in to {self.address}: run `arcentra login --server {self.address}`, or set ARCENTRA_TOKEN",
                ExitCode.UNREACHABLE,
                self.unreadable,
            )
        if not (self.address.tls or self.address.is_loopback or self.insecure):
            raise CliError(
                f"refusing to send the token in clear text to {self.address}: use --tls, or --insecure to allow it"
            )
        return self.token


@dataclass(frozen=True, slots=True)
class FoundToken:
    """An admin token found on this host, with the files that could not be read on the way."""

    token: str = ""
    source: str = ""
    unreadable: tuple[str, ...] = ()


def resolve(settings: Settings, env: Mapping[str, str], logins: Logins, cwd: Path) -> Endpoint:
    """Decide the server and the token of one command.

    A stored token is only used with the server it was stored for, and the admin token of this host only with a server
    on this host: a token never travels to a server it was not made for.

    Raises:
        CliError: the server address cannot be read.
    """
    address = parse_address(settings.server or env.get("ARCENTRA_SERVER") or logins.current or DEFAULT_SERVER)
    login = logins.servers.get(str(address))
    address = address.over_tls(settings.tls or (login is not None and login.tls))
    found = _find_token(settings, env, login, address, cwd)
    return Endpoint(
        address,
        ca_file=settings.ca_file or (Path(login.ca_file) if login and login.ca_file else None),
        insecure=settings.insecure or (login is not None and login.insecure),
        token=found.token,
        token_source=found.source,
        unreadable=found.unreadable,
    )


def _find_token(
    settings: Settings, env: Mapping[str, str], login: Login | None, address: Address, cwd: Path
) -> FoundToken:
    if settings.token:
        return FoundToken(settings.token, "--token")
    if token := env.get("ARCENTRA_TOKEN"):
        return FoundToken(token, "ARCENTRA_TOKEN")
    if login:
        return FoundToken(login.token, "`arcentra login`")
    return find_admin_token(data_dirs(env, cwd)) if address.is_loopback else FoundToken()


def data_dirs(env: Mapping[str, str], cwd: Path) -> list[Path]:
    """Data directories in which a server on this host may have left its admin token, most specific first."""
    named = [Path(named)] if (named := env.get("ARCENTRA_DATA_DIR")) else []
    home = [Path(home) / ".local/share/arcentra-server"] if (home := env.get("HOME")) else []
    return [*named, cwd / ".data", *home, Path("/var/lib/arcentra-server")]


def find_admin_token(directories: Iterable[Path]) -> FoundToken:
    """Read the first admin token there is."""
    unreadable: list[str] = []
    for directory in directories:
        path = directory / ADMIN_TOKEN
        try:
            token = path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unreadable.append(f"cannot read {path}: {error.strerror}")
            continue
        except UnicodeDecodeError:
            unreadable.append(f"cannot read {path}: not a token")
            continue
        if token:
            return FoundToken(token, str(path), tuple(unreadable))
    return FoundToken(unreadable=tuple(unreadable))
