"""Update rules, learning-rate schedules, and what becomes of momentum at a phase boundary."""
