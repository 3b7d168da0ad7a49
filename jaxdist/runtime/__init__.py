"""The process itself: allocator, compilation cache, monitor, injected faults."""
