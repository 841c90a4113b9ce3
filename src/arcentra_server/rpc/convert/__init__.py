"""Pure translation between protobuf messages and domain types."""
