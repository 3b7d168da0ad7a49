"""State divided over a mesh of devices."""
