"""What a strategy needs of the processes of a run as a whole; `jaxdist.cluster.process_group` is it."""

from __future__ import annotations

from typing import Any, Protocol


class ProcessGroup(Protocol):
    """`jaxdist.cluster.process_group.ProcessGroup` says what each method does."""

    @property
    def host(self) -> str: ...

    def gather(self, name: str, value: Any) -> list[Any]: ...
