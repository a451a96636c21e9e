"""What marks a prompt that kills: in a module of its own, since importing a worker patches the standard library."""

MARKER = "poison-7f3a"
