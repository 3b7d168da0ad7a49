"""How a process ends whose run has ended."""

from __future__ import annotations

import pytest

from jaxdist.errors import PeerError, Preempted, UsageError
from jaxdist.ps import RunFinished
from jaxdist.ps.errors import Ended, as_process_error


@pytest.mark.parametrize(("code", "kind"), [(0, RunFinished), (1, PeerError), (2, UsageError), (75, Preempted)])
def test_each_exit_code_has_its_error(code, kind):
    error = as_process_error(Ended(code, "the reason"))
    assert type(error) is kind
    assert ("the reason" in str(error)) == (code != 0)
