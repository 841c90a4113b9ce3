"""Which server and which token a command uses."""

import stat
from pathlib import Path

import pytest

from arcentra_cli.address import Address, parse_address
from arcentra_cli.config import Settings, data_dirs, find_admin_token, resolve
from arcentra_cli.errors import CliError
from arcentra_cli.exit_codes import ExitCode
from arcentra_cli.login_file import Login, Logins, load_logins, login_path, save_logins

LOCAL = "127.0.0.1:9090"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ci.example.com", Address("ci.example.com", 9090)),
        ("ci.example.com:7", Address("ci.example.com", 7)),
        ("grpc://ci:7", Address("ci", 7)),
        ("grpcs://ci:7/", Address("ci", 7, tls=True)),
        ("[::1]:7", Address("::1", 7)),
        ("::1", Address("::1", 9090)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":7", "http://ci:7", "ci:port", "ci:0", "ci:70000", "user@ci:7", "ci:7/path"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(CliError):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.3.2.1", True), ("::1", True), ("10.0.0.1", False), ("localhost.evil.example", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback is loopback


def test_order_of_sources(tmp_path: Path) -> None:
    logins = Logins("ci:7", {"ci:7": Login("of-login", tls=True), LOCAL: Login("of-local")})
    env = {"ARCENTRA_SERVER": LOCAL, "ARCENTRA_TOKEN": "of-env"}
    endpoint = resolve(Settings(server="ci:7", token="of-option"), env, logins, tmp_path)
    assert (str(endpoint.address), endpoint.token) == ("ci:7", "of-option")
    endpoint = resolve(Settings(), env, logins, tmp_path)
    assert (str(endpoint.address), endpoint.token) == (LOCAL, "of-env")
    endpoint = resolve(Settings(), {}, logins, tmp_path)
    assert (str(endpoint.address), endpoint.address.tls, endpoint.token) == ("ci:7", True, "of-login")
    assert str(resolve(Settings(), {}, Logins(), tmp_path).address) == LOCAL


def test_a_token_stays_with_its_server(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "admin.token").write_text("of-host\n")
    logins = Logins("ci:7", {"ci:7": Login("of-login")})
    assert resolve(Settings(server="other:7"), {}, logins, tmp_path).token == ""
    assert resolve(Settings(server=LOCAL), {}, logins, tmp_path).token == "of-host"


def test_data_dirs_in_order() -> None:
    assert data_dirs({"ARCENTRA_DATA_DIR": "/d", "HOME": "/h"}, Path("/w")) == [
        Path("/d"),
        Path("/w/.data"),
        Path("/h/.local/share/arcentra-server"),
        Path("/var/lib/arcentra-server"),
    ]


def test_an_unreadable_token_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "admin.token").mkdir(parents=True)  # cannot be read by anybody, not even by root
    found = find_admin_token([tmp_path / "none", tmp_path / "a"])
    assert found.token == ""
    assert found.unreadable == (f"cannot read {tmp_path}/a/admin.token: Is a directory",)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "admin.token").write_text("tok\n")
    found = find_admin_token([tmp_path / "a", tmp_path / "b"])
    assert (found.token, found.source) == ("tok", f"{tmp_path}/b/admin.token")


def test_no_token_says_how_to_log_in(tmp_path: Path) -> None:
    endpoint = resolve(Settings(server="ci:7"), {}, Logins(), tmp_path)
    with pytest.raises(CliError, match="arcentra login --server ci:7") as caught:
        endpoint.require_token()
    assert caught.value.exit_code is ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        (Settings(server="ci:7", token="t"), False),
        (Settings(server="ci:7", token="t", tls=True), True),
        (Settings(server="grpcs://ci:7", token="t"), True),
        (Settings(server="ci:7", token="t", insecure=True), True),
        (Settings(server=LOCAL, token="t"), True),
    ],
)
def test_no_token_in_clear_text_over_a_network(settings: Settings, allowed: bool, tmp_path: Path) -> None:
    endpoint = resolve(settings, {}, Logins(), tmp_path)
    if allowed:
        assert endpoint.require_token() == "t"
    else:
        with pytest.raises(CliError, match="clear text"):
            endpoint.require_token()


def test_logins_are_kept_and_private(tmp_path: Path) -> None:
    path = login_path({"XDG_CONFIG_HOME": str(tmp_path)})
    assert path == tmp_path / "arcentra" / "config.json"
    assert load_logins(path) == Logins()
    first = Logins().with_login("a:1", Login("ta"))
    both = first.with_login("b:2", Login("tb", tls=True, ca_file="/ca.pem"))
    save_logins(path, first)
    save_logins(path, both)
    assert load_logins(path) == both
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"current": "a", "servers": {"a": {"tokn": 1}}}'])
def test_a_damaged_login_file_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CliError, match="damaged"):
        load_logins(path)
