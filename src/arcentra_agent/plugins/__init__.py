"""What steps can do: `uses` names a plugin, `action` one of its operations."""

from arcentra_agent.plugins.base import Plugin
from arcentra_agent.plugins.git import GitPlugin
from arcentra_agent.plugins.k8s import K8sPlugin
from arcentra_agent.plugins.s3 import S3Plugin
from arcentra_agent.plugins.shell import ShellPlugin

PLUGINS: dict[str, Plugin] = {"shell": ShellPlugin(), "git": GitPlugin(), "k8s": K8sPlugin(), "s3": S3Plugin()}
