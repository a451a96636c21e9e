"""One module per command of ``promptq``."""
