"""What steps can do: `uses` names a plugin, `action` one of its operations."""

from arcentra_agent.plugins.base import Plugin
from arcentra_agent.plugins.git import GitPlugin
from arcentra_agent.plugins.shell import ShellPlugin

PLUGINS: dict[str, Plugin] = {"shell": ShellPlugin(), "git": GitPlugin()}
