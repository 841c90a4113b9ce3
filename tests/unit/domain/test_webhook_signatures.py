"""Whose deliveries count: those of who knows a secret of the hook, and nobody else's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcentra_server.domain.forge import Forge
from arcentra_server.domain.webhook_signatures import is_signed, sign
from tests.support.deliveries import NAMES, SECRET, delivery, generic, signature


def test_the_example_of_githubs_documentation() -> None:
    given_mac = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    secret, body = "It's a Secret to Everybody", b"Hello, World!"
    assert sign(secret, body) == given_mac
    assert is_signed(Forge.GITHUB, [secret], {"x-hub-signature-256": f"sha256={given_mac}"}, body)


@pytest.mark.parametrize("name", NAMES)
def test_documented_deliveries(name: str) -> None:
    one = delivery(name)
    assert is_signed(one.forge, [SECRET], one.headers, one.body)
    assert is_signed(one.forge, ["an older secret!", SECRET], one.headers, one.body)
    assert not is_signed(one.forge, ["another secret!!"], one.headers, one.body)
    assert not is_signed(one.forge, [], one.headers, one.body)
    [header] = signature(one.forge, b"", "")
    assert not is_signed(one.forge, [SECRET], one.without(header).headers, one.body)
    if one.forge is not Forge.GITLAB:
        assert not is_signed(one.forge, [SECRET], one.headers, one.body + b" ")


@pytest.mark.parametrize(
    ("name", "header", "text"),
    [
        ("github_push", "x-hub-signature-256", "{mac}"),
        ("github_push", "x-hub-signature-256", "sha256={upper}"),
        ("github_push", "x-hub-signature-256", "sha256={mac}, sha256={mac}"),
        ("github_push", "x-hub-signature-256", "sha1={mac}"),
        ("gitea_push", "x-gitea-signature", "sha256={mac}"),
        ("gitlab_push", "x-gitlab-token", ""),
        ("gitlab_push", "x-gitlab-token", "correct horse battery staplé"),
        ("gitlab_push", "x-gitlab-token", SECRET.upper()),
    ],
)
def test_forms_that_are_not_good(name: str, header: str, text: str) -> None:
    one = delivery(name)
    mac = sign(SECRET, one.body)
    headers = {**one.headers, header: text.format(mac=mac, upper=mac.upper())}
    assert not is_signed(one.forge, [SECRET], headers, one.body)


def test_headers_of_others_do_not_count() -> None:
    """Gitea's deliveries carry GitHub's header too, and GitHub's one of SHA-1."""
    one = delivery("gitea_push")
    assert not is_signed(Forge.GITEA, [SECRET], one.without("x-gitea-signature").headers, one.body)
    old = delivery("github_push").without("x-hub-signature-256")
    assert "x-hub-signature" in old.headers
    assert not is_signed(Forge.GITHUB, [SECRET], old.headers, old.body)


@given(st.sampled_from(Forge), st.binary(max_size=64), st.text(max_size=80))
def test_nothing_is_good_without_the_secret(forge: Forge, body: bytes, text: str) -> None:
    headers = {name: text for one in Forge for name in signature(one, b"", "")}
    assert is_signed(forge, [SECRET], headers, body) == (forge is Forge.GITLAB and text == SECRET)
    assert is_signed(forge, [SECRET], {**headers, **signature(forge, body, SECRET)}, body)


def test_generic() -> None:
    one = generic({"event": "deploy"})
    assert is_signed(Forge.GENERIC, [SECRET], one.headers, one.body)
    assert not is_signed(Forge.GENERIC, ["another secret!!"], one.headers, one.body)
