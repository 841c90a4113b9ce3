"""One class a gRPC service; a method translates, calls a service and translates back."""
