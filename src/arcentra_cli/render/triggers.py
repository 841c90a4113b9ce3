"""Hooks, triggers and their ledger, as tables."""

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from rich.console import Group, RenderableType
from rich.text import Text

from arcentra_api.admin.v1 import admin_pb2
from arcentra_api.pipeline.v1 import pipeline_pb2
from arcentra_cli.render import words
from arcentra_cli.render.parts import columns, page, pairs

_WHERE_TO_PUT_IT = {
    admin_pb2.FORGE_GITHUB: "GitHub: Settings > Webhooks, content type application/json, field Secret",
    admin_pb2.FORGE_GITLAB: "GitLab: Settings > Webhooks, field Secret token",
    admin_pb2.FORGE_GITEA: "Gitea or Forgejo: Settings > Webhooks > Gitea, field Secret",
    admin_pb2.FORGE_GENERIC: "send X-Arcentra-Signature: sha256=<hex HMAC-SHA256 of the body with the secret>",
}
_OUTCOME_STYLES = {"FIRED": "green", "REFUSED": "red", "MISSED": "yellow", "FILTERED": "dim", "DUPLICATE": "dim"}


def created_hook(reply: admin_pb2.CreateHookResponse) -> RenderableType:
    """A new hook with its secret, and where to put the two."""
    hook = reply.hook
    return Group(
        pairs(
            [
                ("Hook", hook.hook_id),
                ("Path", f"{hook.path} (at the HTTP address of the server)"),
                ("Secret", reply.secret),
                ("Set it up", _WHERE_TO_PUT_IT.get(hook.forge, "")),
            ]
        ),
        Text("the secret is not shown again", style="dim"),
    )


def rotated_hook(reply: admin_pb2.RotateHookSecretResponse) -> RenderableType:
    """The new secret of a hook."""
    note = "the secret is not shown again; the one before is good for another day"
    return Group(pairs([("Secret", reply.secret)]), Text(note, style="dim"))


def hooks(reply: admin_pb2.ListHooksResponse) -> RenderableType:
    """Hooks, a row each."""
    table = columns("namespace", "name", "sender", "pipeline", "path", "last delivery", "created by")
    for hook in reply.hooks:
        table.add_row(
            hook.namespace,
            hook.name,
            forge(hook.forge),
            hook.pipeline_id or "any",
            hook.path,
            words.moment(hook.last_delivery_at) or "never",
            hook.created_by,
        )
    return table if reply.hooks else Text("no hooks: make one with `arcentra hook create`")


def forge(value: int) -> str:
    """`FORGE_GITHUB` as `github`; an unknown value as its number."""
    return words.enum_word(admin_pb2.Forge.Name, "FORGE_", value).lower()


def triggers(reply: pipeline_pb2.ListTriggersResponse) -> RenderableType:
    """Schedules and event triggers, a row each."""
    table = columns("pipeline", "#", "type", "when", "next", "last fired", "last run")
    for trigger in reply.triggers:
        is_cron = trigger.type == pipeline_pb2.TRIGGER_TYPE_CRON
        table.add_row(
            f"{trigger.namespace}/{trigger.pipeline_name}",
            str(trigger.trigger_index),
            words.trigger_type(trigger.type),
            trigger.explanation if is_cron else event_rules(trigger.options),
            words.moment(trigger.next_at) or ("none" if is_cron else ""),
            words.moment(trigger.last_fired_at) or "never",
            trigger.last_run_id,
        )
    return table if reply.triggers else Text("no triggers")


def event_rules(options: Struct) -> str:
    """`push on main, release/**`: what an event has to be like."""
    rules = json_format.MessageToDict(options)
    told = [", ".join(rules.get("events", []))]
    for name, word in (("repos", "of"), ("branches", "on"), ("tags", "tagged"), ("paths", "changing")):
        if rules.get(name):
            told.append(f"{word} {', '.join(rules[name])}")
    return " ".join(told)


def events(reply: pipeline_pb2.ListTriggerEventsResponse) -> RenderableType:
    """The ledger, an entry a row."""
    table = columns("at", "pipeline", "what", "outcome", "why", "run")
    for event in reply.events:
        outcome = trigger_outcome(event.outcome)
        tick = f" due {words.moment(event.tick_at)}" if event.tick_at else ""
        table.add_row(
            words.moment(event.at),
            "/".join(part for part in (event.namespace, event.pipeline_name or event.pipeline_id) if part),
            (event.summary or words.trigger_type(event.type)) + tick,
            Text(outcome.lower(), style=_OUTCOME_STYLES.get(outcome, "")),
            event.reason,
            event.run_id,
        )
    return page(table, len(reply.events), reply.total, "trigger events")


def trigger_outcome(value: int) -> str:
    """`TRIGGER_OUTCOME_FIRED` as `FIRED`; an unknown value as its number."""
    return words.enum_word(pipeline_pb2.TriggerOutcome.Name, "TRIGGER_OUTCOME_", value)
