"""Arcentra Server: a self-hosted CI/CD control plane over gRPC and PostgreSQL."""
