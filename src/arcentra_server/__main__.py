"""`python -m arcentra_server`."""

from arcentra_server.cli import main

main()
