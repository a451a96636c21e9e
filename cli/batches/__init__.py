"""What ``promptq batch run`` is made of: reading prompts, running a batch of them, writing what became of each."""
