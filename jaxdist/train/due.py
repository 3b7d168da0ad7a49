"""Whether it is time for a row, an evaluation or a checkpoint: the one rule for all."""


def crossed(before: int, after: int, every: float) -> bool:
    """Whether a count that rose from `before` to `after` passed a multiple of `every`; never for every=0."""
    return bool(every) and int(after / every) > int(before / every)
