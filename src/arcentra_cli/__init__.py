"""The command line `arcentra`: talks gRPC to a control plane, and nothing else."""
