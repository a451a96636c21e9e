"""What people write by hand today, as the documentation of each tool teaches it. Each has an environment of its own."""
