"""Which addresses are of one repository, and which of them a trigger is about."""

from __future__ import annotations

from itertools import permutations

import pytest

from arcentra_server.domain.repositories import Repository, asked_addresses, same_repository

SAME = {
    "one repository at a host": (
        "https://code.example.com/team/app",
        "https://code.example.com/team/app.git",
        "https://code.example.com/team/app.git/",
        "https://code.example.com/team/app//",
        "  https://code.example.com/team/app\n",
        "http://code.example.com/team/app",
        "https://ann:secret@code.example.com/team/app.git",
        "https://code.example.com:443/team/app.git",
        "http://code.example.com:80/team/app.git",
        "https://Code.Example.COM/Team/App.git",
        "ssh://git@code.example.com/team/app.git",
        "ssh://git@code.example.com:22/team/app.git",
        "git+ssh://git@code.example.com/team/app.git",
        "git@code.example.com:team/app.git",
        "git@code.example.com:/team/app.git",
        "git@Code.example.com:team/app/.git",
        "code.example.com:team/app",
        "git://code.example.com/team/app.git",
    ),
    "a folder with a blank in front of it": (" /srv/git/app", "/srv/git/app"),
    "ports of SSH of any name": ("git+ssh://git@code:2222/team/app", "https://code:8443/team/app"),
    "ports of SSH of yet another name": ("ssh+git://git@code:2222/team/app", "https://code:8443/team/app"),
    "ports of SSH and HTTP, which differ anyway": ("ssh://git@code:2222/team/app.git", "https://code:8443/team/app"),
    "a host that is a number": ("git@[::1]:team/app", "https://[::1]/team/app.git"),
    "a folder without a slash in front": ("srv/git/app", "srv/git/app.git/"),
    "a folder": (
        "//srv/git/app",
        "/srv/git/app.git",
        "/srv/git/app",
        "file:///srv/git/app.git/",
        "file://localhost/srv/git/app",
    ),
}
DIFFERENT = [
    ("https://code.example.com/team/app", "https://code.example.com/team/lib"),
    ("https://code.example.com/team/app", "https://code.example.com/other/app"),
    ("https://code.example.com/team/app", "https://code.example.com/group/team/app"),
    ("https://code.example.com/team/app", "https://mirror.example.com/team/app"),
    ("https://code.example.com/team/app", "https://code.example.com/team/app.github"),
    ("https://code.example.com/team/app", "git@mirror.example.com:team/app"),
    ("http://localhost:3000/team/app", "http://localhost:4000/team/app"),
    ("http://localhost:3000/team/app", "http://localhost/team/app"),
    ("ssh://git@code:2222/team/app", "git@code:team/app"),
    ("/srv/git/app", "/srv/git/App"),
    ("/srv/git/app", "srv/git/app"),
    ("file:///srv/git/app", "srv/git/app.git"),
    ("../app", "/../app"),
    ("/srv/git/app", "https://code.example.com/srv/git/app"),
    ("C:/git/app", "https://c/git/app"),
    ("https://code.example.com:port/team/app", "https://code.example.com/team/app"),
    ("https://code/${{ needs.a.outputs.repo }}", "https://code/team/app"),
]


@pytest.mark.parametrize("addresses", SAME.values(), ids=SAME)
def test_addresses_of_one_repository(addresses: tuple[str, ...]) -> None:
    assert [pair for pair in permutations(addresses, 2) if not same_repository(*pair)] == []


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_addresses_of_different_repositories(one: str, other: str) -> None:
    assert not same_repository(one, other)
    assert not same_repository(other, one)
    assert same_repository(one, one)
    assert same_repository(other, other)


WEB, SSH, OTHER = "https://code/team/app.git", "ssh://git@ssh.code:2222/team/app.git", "https://code/team/lib.git"


@pytest.mark.parametrize(
    ("address", "repository", "is_at"),
    [
        (WEB, Repository((WEB,)), True),
        (WEB, Repository((WEB, SSH)), True),
        (SSH, Repository((WEB, SSH)), True),
        (SSH, Repository((WEB,)), False),  # another host
        (OTHER, Repository((WEB, SSH), "team/lib"), False),  # the name does not count beside addresses
        (WEB, Repository(name="team/app"), True),
        (WEB, Repository(name="Team/App"), True),
        (WEB, Repository(name="app"), True),
        ("https://code/git/team/app", Repository(name="team/app"), True),  # a host below a path
        ("git@code:team/app.git", Repository(name="team/app"), True),
        ("/srv/team/app", Repository(name="team/app"), True),
        ("/team/app", Repository(name="/team/app/"), True),
        ("team/app", Repository(name="team/app"), True),
        (WEB, Repository(name="eam/app"), False),
        (WEB, Repository(name="team/lib"), False),
        (WEB, Repository(), False),
        (f"{WEB}/", Repository(), False),
        ("", Repository(), False),
    ],
)
def test_repository_of_an_event(address: str, repository: Repository, is_at: bool) -> None:
    assert repository.is_at(address) is is_at


@pytest.mark.parametrize(
    ("addresses", "repository", "asked"),
    [
        # An event: those of its repository, wherever they stand.
        ([OTHER, WEB, "git@code:team/app"], Repository((WEB,)), {WEB, "git@code:team/app"}),
        ([OTHER], Repository((WEB,)), set()),
        ([OTHER, WEB], Repository(name="team/app"), {WEB}),
        ([OTHER, WEB], Repository(name="team/none"), set()),
        # Nobody says where: the first, and those like it.
        ([WEB, OTHER, "git@code:team/app"], Repository(), {WEB, "git@code:team/app"}),
        ([OTHER, WEB], Repository(), {OTHER}),
        ([WEB, WEB], Repository(), {WEB}),
        ([], Repository(), set()),
        ([], Repository((WEB,)), set()),
    ],
)
def test_sources_that_a_trigger_is_about(addresses: list[str], repository: Repository, asked: set[str]) -> None:
    assert asked_addresses(addresses, repository) == asked
