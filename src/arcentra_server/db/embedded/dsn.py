"""Addresses of embedded databases."""

from pathlib import Path
from urllib.parse import quote, urlencode

from arcentra_server.db.embedded.cluster import read_password
from arcentra_server.db.embedded.layout import DATABASE, PORT, USER, Layout
from arcentra_server.db.embedded.postmaster import read_pid_file, serves


def build_dsn(password: str, socket_dir: str, database: str) -> str:
    """A URL as libpq and asyncpg take it: the socket's directory stands in the query as `host`."""
    query = urlencode({"host": socket_dir, "port": PORT}, safe="/", quote_via=quote)
    return f"postgresql://{USER}:{quote(password, safe='')}@/{quote(database, safe='')}?{query}"


def running_dsn(data_dir: Path, database: str = DATABASE) -> str | None:
    """The address of the server that some process runs on `data_dir`; None if none is ready there.

    Raises:
        DataDirUnusableError: a server runs, but its password is closed to us.
    """
    layout = Layout.of(data_dir)
    noted = read_pid_file(layout.cluster)
    if noted is None or not noted.ready or not noted.socket_dir or not serves(noted.pid, layout.cluster):
        return None
    return build_dsn(read_password(layout), noted.socket_dir, database)
