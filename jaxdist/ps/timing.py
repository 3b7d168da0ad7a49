"""How long the two ends of a connection wait for each other."""

LONG_POLL_SECONDS = 2.0  # a server keeps a call that cannot be answered yet for as long, then has it asked again
HEARTBEAT_SECONDS = 0.5  # between two signs of life
