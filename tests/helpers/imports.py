"""What a process has imported, and when: `python -m helpers.imports WORKDIR` trains one update and says it."""

from __future__ import annotations

import json
import sys

# before this process has imported anything of them
preloaded = {"jaxdist.roles.worker", "helpers.traced"} <= sys.modules.keys()

from helpers import tiny_config  # noqa: E402

import jaxdist  # noqa: E402


def main(workdir: str) -> None:
    config = tiny_config.get_config()
    config.max_updates = 1
    jaxdist.train_and_evaluate(config, workdir)
    import tensorflow_datasets  # noqa: F401

    print(json.dumps({"preloaded": preloaded, "tensorflow": "tensorflow" in sys.modules}))


if __name__ == "__main__":
    main(*sys.argv[1:])
