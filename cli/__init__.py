"""The command line: ``promptq up`` runs the whole stack; the other commands are clients of its API."""
