"""What operators want of an agent, and what it is told of it."""

import pytest

from arcentra_server.domain.standing import DISABLED, PENDING_APPROVAL, Briefing, Settings, Standing

UNTROUBLED = Settings(heartbeat_ms=10_000, lease_ms=30_000)


@pytest.mark.parametrize(
    ("standing", "refusal", "drains", "channel_while_busy"),
    [
        (Standing(), "", False, ""),
        (Standing(drained=True), "", True, ""),
        (Standing(disabled=True), DISABLED, True, ""),
        (Standing(disabled=True, drained=True), DISABLED, True, ""),
        (Standing(approved=False), PENDING_APPROVAL, True, PENDING_APPROVAL),
        (Standing(approved=False, disabled=True), PENDING_APPROVAL, True, PENDING_APPROVAL),
    ],
)
def test_what_an_agent_may(standing: Standing, refusal: str, drains: bool, channel_while_busy: str) -> None:
    assert (standing.refusal, standing.drains) == (refusal, drains)
    assert Briefing(standing).refusal == refusal
    assert Briefing(standing, busy=True).refusal == channel_while_busy


def test_settings_follow_the_operators() -> None:
    drained = UNTROUBLED.under(Standing(drained=True, note="upgrade"))
    assert (drained.drain, drained.drain_reason) == (True, "upgrade")
    assert (drained.heartbeat_ms, drained.lease_ms) == (10_000, 30_000)
    assert drained.under(Standing()) == UNTROUBLED
    assert drained.under(Standing(note="of what is over")) == UNTROUBLED
    assert drained.rotating().under(Standing()) == UNTROUBLED.rotating()


@pytest.mark.parametrize(("rotate_in", "due"), [(None, False), (3_600.0, False), (0.0, True), (-5.0, True)])
def test_a_credential_is_rotated_when_it_is_due(rotate_in: float | None, due: bool) -> None:
    assert UNTROUBLED.at(Briefing(Standing(), rotate_in)).rotate_credential is due
