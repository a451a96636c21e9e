"""Sending webhooks, in slots of their own, apart from the LLM's."""
