"""Queries every panel of the dashboard and every query of the runbooks from a Prometheus that watches a loaded cluster."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request

import alerts
import report
import runbooks

VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$namespace": ".*", "$cluster": ".*"}


def check(url):
    for panel in alerts.panels():
        problems = []
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            problems += _without_data(url, query)
        report.line(f"panel {panel['title']!r}", problems)
    queries = runbooks.all_queries()
    problems = [f"{page}: {problem}" for page, query in queries for problem in _unanswered(url, query)]
    report.line(f"{len(queries)} queries of the runbooks", problems)


def _ask(url, query):
    address = f"{url.rstrip('/')}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)["data"]["result"]


def _without_data(url, query):
    series = _ask(url, query)
    if not series:
        return [f"no data: {query}"]
    return [f"only NaN: {query}"] if all(one["value"][1] == "NaN" for one in series) else []


def _unanswered(url, query):
    """In a healthy cluster most queries return nothing, but a plain metric always exists."""
    try:
        series = _ask(url, query)
    except urllib.error.HTTPError as error:
        return [f"{query}: {error.read().decode()}"]
    is_name = re.fullmatch(r"mana_sync_\w+", query)
    # A histogram exists only as its parts.
    return [f"no data: {query}"] if is_name and not series and not _ask(url, f"{query}_count") else []
