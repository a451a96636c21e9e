"""What workers do for batches besides running their jobs: looking through files, feeding lines, gathering results."""
