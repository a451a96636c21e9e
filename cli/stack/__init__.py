"""What ``promptq up`` is made of: the parts, their processes, and how they are started, watched and stopped."""
