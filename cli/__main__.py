"""Makes ``python -m cli`` the same as ``promptq``."""

from cli.main import main

main()
