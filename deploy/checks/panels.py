"""Asks a Prometheus that watches a loaded cluster for every panel of the dashboard."""

import json
import urllib.parse
import urllib.request

import alerts
import report

VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$namespace": ".*", "$cluster": ".*"}


def check(url):
    for panel in alerts.panels():
        problems = []
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            address = f"{url.rstrip('/')}/api/v1/query?" + urllib.parse.urlencode({"query": query})
            with urllib.request.urlopen(address, timeout=10) as answer:
                series = json.load(answer)["data"]["result"]
            if not series:
                problems.append(f"no data: {query}")
            elif all(one["value"][1] == "NaN" for one in series):
                problems.append(f"nothing but NaN: {query}")
        report.line(f"panel {panel['title']!r}", problems)
