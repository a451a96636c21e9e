"""What becomes of accepted jobs when parts of a running stack fail: real processes, real signals, exact counts."""
