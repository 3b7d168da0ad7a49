"""The training loop and what surrounds it: phases, rows, evaluation, writing."""
