"""Pure: messages in, tables and lines out. The clock is an argument."""
