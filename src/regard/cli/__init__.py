"""The command: parses arguments, draws progress, prints; nothing else does."""
