"""What is a fault of the parts of stages and jobs: retries, gates, sources, notifications, concurrency keys."""

from __future__ import annotations

import re

from arcentra_server.domain.channels import CHANNELS, check_notification
from arcentra_server.domain.clear_secrets import leaked
from arcentra_server.domain.definition import (
    ApprovalSpec,
    GitSource,
    JobSpec,
    NotifySpec,
    RetrySpec,
)
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.field_checks import (
    check_args,
    check_distinct,
    check_leaks,
    check_range,
    check_text,
    check_timeout,
    is_reference,
    unknown,
)
from arcentra_server.domain.states import FailureReason

MOST_ATTEMPTS = 10
MOST_HOLDERS = 1_000
MOST_APPROVERS = 100
DEEPEST_CLONE = 1_000_000
ANY_FAILURE = "failed"
RETRIED = (
    ANY_FAILURE,
    *(
        reason.value
        for reason in FailureReason
        # None of them would be different the next time.
        if reason not in {FailureReason.CANCELLED, FailureReason.DEPENDENCY, FailureReason.REJECTED}
    ),
)
_CONCURRENCY = re.compile(r"[A-Za-z0-9._/-]{1,128}")
_PASSWORD_IN_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://[^/@\s]*:[^/@\s]*@")


def check_concurrency(job: JobSpec, path: str) -> list[Fault]:
    """Return the faults of the concurrency key of a job."""
    faults = check_range(job.concurrency_limit, 1, MOST_HOLDERS, f"{path}.concurrency_limit")
    if job.concurrency:
        if not _CONCURRENCY.fullmatch(job.concurrency):
            key = job.concurrency[:80]
            faults.append(Fault(f"{path}.concurrency", f"{key!r} is not a key: 1 to 128 of A-Z a-z 0-9 . _ / -"))
        return faults
    if job.concurrency_limit != 1 and not faults:
        faults.append(Fault(f"{path}.concurrency_limit", "has no meaning without `concurrency`"))
    if job.cancel_in_progress:
        faults.append(Fault(f"{path}.cancel_in_progress", "has no meaning without `concurrency`"))
    return faults


def check_retry(retry: RetrySpec, path: str) -> list[Fault]:
    """Return the faults of a rule for retries."""
    faults = check_range(retry.max_attempts, 1, MOST_ATTEMPTS, f"{path}.max_attempts")
    if not retry.max_attempts:
        faults = [Fault(f"{path}.max_attempts", f"is required: 1 to {MOST_ATTEMPTS}, the first attempt included")]
    if retry.delay_ms < 0:
        faults.append(Fault(f"{path}.delay", "must not be negative"))
    faults += [
        Fault(f"{path}.on[{index}]", unknown(reason, RETRIED))
        for index, reason in enumerate(retry.on)
        if reason not in RETRIED
    ]
    return faults + check_distinct(retry.on, f"{path}.on")


def check_approval(approval: ApprovalSpec, path: str) -> list[Fault]:
    """Return the faults of a gate."""
    faults = check_range(approval.needed, 1, MOST_APPROVERS, f"{path}.needed")
    named = len(approval.approvers)
    if named > MOST_APPROVERS:
        faults.append(Fault(f"{path}.approvers", f"{named} names, more than {MOST_APPROVERS}"))
    elif named and approval.needed > named and not faults:
        faults.append(Fault(f"{path}.needed", f"is {approval.needed}, more than the {named} who may approve"))
    for index, name in enumerate(approval.approvers):
        where = f"{path}.approvers[{index}]"
        faults += check_text(name, where, longest=128) if name else [Fault(where, "a name is needed")]
    faults += check_distinct(approval.approvers, f"{path}.approvers")
    return faults + check_timeout(approval.timeout_ms, f"{path}.timeout")


def check_source(source: GitSource, path: str) -> list[Fault]:
    """Return the faults of a source."""
    faults = []
    if not source.repo:
        faults.append(Fault(f"{path}.repo", "the address of a repository is needed"))
    for name, text in (("repo", source.repo), ("branch", source.branch)):
        if text.startswith("-") or "\0" in text:
            faults.append(Fault(f"{path}.{name}", f"{text!r} is not a {name}"))
        elif kind := leaked(text):
            faults.append(Fault(f"{path}.{name}", kind))
    if _PASSWORD_IN_ADDRESS.match(source.repo):
        faults.append(Fault(f"{path}.repo", "holds a password: store it as a secret and name that in `auth`"))
    faults += check_range(source.depth, 0, DEEPEST_CLONE, f"{path}.depth")
    if source.auth is None:
        return faults
    if not source.auth.token and not source.auth.password:
        faults.append(Fault(f"{path}.auth", "needs a token, or a password"))
    for name, text in (("token", source.auth.token), ("password", source.auth.password)):
        if text and not is_reference(text):
            faults.append(Fault(f"{path}.auth.{name}", "must be a reference to a secret: ${{ secrets.NAME }}"))
    return faults + check_text(source.auth.username, f"{path}.auth.username", longest=256)


def check_notify(notify: NotifySpec, path: str) -> list[Fault]:
    """Return the faults of what is sent when a job ends."""
    if notify.on_success is None and notify.on_failure is None:
        return [Fault(path, "needs on_success or on_failure")]
    faults = []
    for name, message in (("on_success", notify.on_success), ("on_failure", notify.on_failure)):
        if message is not None and not message.plugin:
            faults.append(Fault(f"{path}.{name}.plugin", f"is required: one of {', '.join(CHANNELS)}"))
        elif message is not None:
            where = f"{path}.{name}"
            # Each begins with the field that it is about.
            found = [text.partition(": ") for text in check_notification(message)]
            faults += [Fault(f"{where}.{field}", text) for field, _, text in found]
            faults += check_args(message.args, f"{where}.args") or check_leaks(message.args, f"{where}.args")
    return faults
