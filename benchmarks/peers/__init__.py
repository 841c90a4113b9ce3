"""Other people's programs under the load of the peers scenario: scripts that run in an environment of their own."""
