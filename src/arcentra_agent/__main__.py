"""`python -m arcentra_agent`."""

from arcentra_agent.cli import main

main()
