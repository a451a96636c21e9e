"""The worker: takes jobs from the queue, calls the LLM, stores what it answers."""
