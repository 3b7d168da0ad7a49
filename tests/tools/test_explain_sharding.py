"""`tools/explain_sharding.py`: what lies where, and what a step sends."""

from __future__ import annotations

import sys

from helpers.processes import start


def test_explain_sharding_says_what_lies_where():
    command = [sys.executable, "-m", "tools.explain_sharding", "--config=tests/helpers/tiny_config.py", "--devices=2"]
    command += ["--config.strategy.name=model_parallel", "--config.strategy.mesh=model:2"]
    run = start(command, {})
    refused = start([*command, "--config.strategy.mesh=data:3"], {})
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output[-2000:]
    assert "| middle/conv/kernel | 3x3x4x4 | -, -, -, model | 1.2 | 0.6 |" in output
    assert "\n| all-reduce | " in output and "Over 1 Gbit/s" in output
    output, _ = refused.communicate(timeout=120)
    assert refused.returncode == 2 and "data:3' is 3 = 3 devices, and there are 2" in output
