"""What surrounds every call: identity, policy, errors, malformed requests."""
