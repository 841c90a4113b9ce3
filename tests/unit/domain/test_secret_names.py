from uuid import UUID

import pytest

from arcentra_server.domain import secret_names
from arcentra_server.domain.secret_names import (
    SecretScope,
    bound_to,
    check_secret_name,
    check_secret_value,
    warnings_about,
)


@pytest.mark.parametrize("name", ["A", "_", "deploy_key_2", "x" * 128])
def test_names(name: str) -> None:
    assert check_secret_name(name) == []


@pytest.mark.parametrize("name", ["", "2A", "a-b", "a b", "é", "x" * 129, "A\n"])
def test_no_names_and_they_are_not_repeated(name: str) -> None:
    [fault] = check_secret_name(name)
    assert fault.path == "name"
    assert name.strip() == "" or name not in fault.message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "is required"),
        ("é" * 32_769, "is at most 65536 bytes"),
        ("a\0b", "holds a NUL character"),
        ("é" * 32_768, None),
        ("x", None),
    ],
)
def test_values(value: str, message: str | None) -> None:
    assert [fault.message for fault in check_secret_value(value)] == ([message] if message else [])


@pytest.mark.parametrize(
    ("value", "warnings"),
    [
        ("12345", [secret_names.NOT_MASKED]),
        ("é\r\n", [secret_names.NOT_MASKED, secret_names.LINE_BREAK]),
        ("123456", [secret_names.SHORT]),
        ("1234567", [secret_names.SHORT]),
        ("12345678", []),
        ("12345678\n", [secret_names.LINE_BREAK]),
        ("a long line\nanother one\n", []),
        ("a long line\n}\n", [secret_names.LINES_NOT_MASKED]),
    ],
)
def test_warnings(value: str, warnings: list[str]) -> None:
    assert warnings_about(value) == warnings


def test_each_part_of_a_name_binds() -> None:
    pipeline = UUID(int=1)
    names = {
        bound_to(SecretScope(), "A", 1),
        bound_to(SecretScope("n"), "A", 1),
        bound_to(SecretScope("n", pipeline), "A", 1),
        bound_to(SecretScope("n"), "B", 1),
        bound_to(SecretScope("n"), "A", 2),
    }
    assert len(names) == 5
