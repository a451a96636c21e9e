"""What the commands that talk to a running API share."""
