"""Communication: arrays and bytes from process to process, and sums over replicas."""
