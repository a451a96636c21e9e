"""What needs more than PyPI: ``make test-system`` names these files; pytest does not collect them by itself."""
