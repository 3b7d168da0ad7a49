"""How a call to a parameter server can fail; each has its gRPC status (`parameter_server.proto`)."""

from __future__ import annotations

from jaxdist.errors import PeerError, of_another_process


class Fenced(Exception):
    """The caller's session or incarnation is over: it must join again."""


class NotNow(Exception):
    """Starting, or rolling back: try again. A caller sees it as `Lost`."""


class Ended(Exception):
    """The run has ended, with an exit code and a reason."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Refused(Exception):
    """The server refuses the values: they do not fit, or are damaged."""


class Superseded(Exception):
    """The version whose chunks are being taken is gone: pull again."""


class Lost(Exception):
    """No answer: not reachable, or (`late`) not in time, or (`answered`) that it is to be asked again later."""

    def __init__(self, text: str, late: bool = False, answered: bool = False) -> None:
        super().__init__(text)
        self.late, self.answered = late, answered


class RunFinished(PeerError):
    """The run has come to its good end, without this process, which is no failure."""

    code = 0


def as_process_error(ended: Ended) -> Exception:
    """The error with which a process ends whose run has ended: by its exit code."""
    if ended.code == 0:
        return RunFinished("the run had come to its good end before this process could take part.")
    return of_another_process(ended.text or "the run has ended", ended.code)
