"""What Prometheus would read of a process."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def scraped(port: int) -> dict[str, tuple[str, float, dict[str, str]]]:
    """{name: (type, value, labels)} of the process that serves at that port of this host."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {one.name: (family.type, one.value, one.labels) for family in families for one in family.samples}
