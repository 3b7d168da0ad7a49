"""What a process of a run is: a worker, a parameter server or an evaluator."""
