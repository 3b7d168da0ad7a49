"""Which process has which worker's number."""

from __future__ import annotations


class Places:
    """Of two processes with one number the later stays: otherwise each would end the other's session, for ever."""

    def __init__(self) -> None:
        self._processes: dict[int, list[str]] = {}  # of each worker, in the order in which they came

    def take(self, worker: int, process: str) -> None:
        """A process joins, for the first time or again.

        Raises:
          ValueError: another one has taken its place.
        """
        known = self._processes.setdefault(worker, [])
        if process in known[:-1]:
            raise ValueError(
                f"{known[-1]} has taken the place of {process} as worker {worker}: either it was started again, or two "
                f"processes have --process_id={worker}"
            )
        if process not in known:
            known.append(process)
