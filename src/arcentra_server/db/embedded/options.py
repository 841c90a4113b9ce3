"""How the embedded server is set up. Given on the command line, so that no file in the cluster overrides it."""

from pathlib import Path

from arcentra_server.db.embedded.layout import PORT


def server_options(socket_dir: Path, max_connections: int) -> list[str]:
    """The arguments of `postgres`, without its data directory."""
    settings: dict[str, str | float] = {
        "listen_addresses": "",
        "port": PORT,
        "unix_socket_directories": _quoted(socket_dir),
        "unix_socket_permissions": "0700",
        "max_connections": max_connections,
        # What was acknowledged stays.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        # Modest memory beside the server itself; the system's cache does the rest.
        "shared_buffers": "128MB",
        "wal_buffers": "16MB",
        # Many small commits: seldom checkpoints, as the first change to a page after each writes the page whole;
        # yet few enough log files that a crash is recovered from in seconds.
        "checkpoint_timeout": "10min",
        "max_wal_size": "1GB",
        "min_wal_size": "256MB",
        # Short statements only: compiling and parallel workers cost more than they bring, and the latter need shared
        # memory that containers limit.
        "jit": "off",
        "max_parallel_workers_per_gather": 0,
        "random_page_cost": 1.1,
        # Queue tables turn over fast.
        "autovacuum_naptime": "15s",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] ",
        # Details and statements may hold users' data.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
    }
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _quoted(path: Path) -> str:
    """A path as an item of a list setting: quoted, so that a comma or a space in it is just that."""
    return '"' + str(path).replace('"', '""') + '"'
