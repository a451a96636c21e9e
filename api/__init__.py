"""The HTTP API: accepts jobs, answers for them, and holds waiting callers without polling."""
