"""What things cost, known beforehand or read from programs: time, memory, bytes."""
