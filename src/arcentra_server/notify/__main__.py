"""`python -m arcentra_server.notify`."""

from arcentra_server.notify.worker import main

main()
