"""Checks Prometheus rules, the dashboard and the runbooks against each other, their copies, and the code's metrics."""

import json
import re
import textwrap
from pathlib import Path

import report
import runbooks
import yaml

RULES = Path("deploy/prometheus/rules.yaml")
TESTS = Path("deploy/prometheus/rules.test.yaml")
DASHBOARD = Path("deploy/grafana/dashboards/mana-sync.json")
RUNBOOKS = Path("docs/runbooks")
RULES_COPY = Path("k8s/components/monitoring/prometheus-rule.yaml")
DASHBOARD_COPY = Path("k8s/components/monitoring/dashboard.json")

HEAD = """# Written by `scripts/check-ops --write` from deploy/prometheus/rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: mana-sync
  labels: { app.kubernetes.io/name: mana-sync }
spec:
"""


def _rules_copy():
    body = RULES.read_text()
    return HEAD + textwrap.indent(body[body.index("\ngroups:") + 1 :], "  ")


def write_copies():
    RULES_COPY.write_text(_rules_copy())
    DASHBOARD_COPY.write_text(DASHBOARD.read_text())


def _names(text):
    """The metrics in a text, histograms by their base name. Recorded metrics have a colon."""
    names = re.findall(r"\bmana_sync_\w+(?!:)\b", text)
    return {re.sub(r"_(bucket|count|sum)$", "", name) if "seconds" in name else name for name in names}


def panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def _unknown(text, metrics, recorded):
    unknown = sorted(_names(text) - set(metrics))
    unknown += sorted(set(re.findall(r"\bmana_sync:[\w:]+", text)) - recorded)
    return [f"{name} is neither a metric of the server nor recorded by a rule" for name in unknown]


def check(metrics):
    report.run("promtool check rules", ["promtool", "check", "rules", RULES])
    report.run("promtool check config", ["promtool", "check", "config", "deploy/prometheus/prometheus.yml"])
    report.run("promtool test rules", ["promtool", "test", "rules", TESTS])

    same = RULES_COPY.read_text() == _rules_copy() and DASHBOARD_COPY.read_text() == DASHBOARD.read_text()
    report.line("rules and dashboard are the same in k8s", [] if same else ["run scripts/check-ops --write"])

    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    alerts = [rule for rule in rules if "alert" in rule]
    expressions = "\n".join(rule["expr"] for rule in rules)
    report.line("rules use metrics that exist", _unknown(expressions, metrics, recorded))
    report.line("the dashboard uses metrics that exist", _unknown(DASHBOARD.read_text(), metrics, recorded))
    report.line("alerts have the required labels and annotations", _annotations(alerts))
    report.line("each runbook begins with what users notice", _untold())
    report.line("the runbooks list the alerts that page", _unnamed(alerts))
    report.line("each runbook links to a panel of the dashboard", _unlinked())
    report.line("each alert has a test in which it fires and one in which it does not", _untested(alerts))
    report.line("each metric is documented correctly", _undocumented(metrics))
    runbooks.check(lambda query: _unknown(query, metrics, recorded))


def _annotations(alerts):
    problems = []
    for alert in alerts:
        name, notes = alert["alert"], alert.get("annotations", {})
        if alert.get("labels", {}).get("severity") not in ("page", "ticket"):
            problems.append(f"{name}: severity is neither page nor ticket")
        if not notes.get("summary"):
            problems.append(f"{name}: no summary")
        if not notes.get("runbook_url", "").endswith(f"/docs/runbooks/{name}.md"):
            problems.append(f"{name}: runbook_url does not end in docs/runbooks/{name}.md")
    pages = {page.stem for page in RUNBOOKS.glob("ManaSync*.md")}
    names = {alert["alert"] for alert in alerts}
    problems += [f"{name}: no page docs/runbooks/{name}.md" for name in sorted(names - pages)]
    problems += [f"docs/runbooks/{page}.md does not belong to an alert" for page in sorted(pages - names)]
    return problems


def _untold():
    """Runbooks that do not begin with what users notice: the on-call engineer wants to know that first."""
    told = re.compile(r"# (\w+)\n\n\*\*Users notice\.\*\* \S")
    begin = {page: told.match(page.read_text()) for page in sorted(RUNBOOKS.glob("ManaSync*.md"))}
    return [f"{page} does not begin with what users notice, under its own name" for page, found in begin.items() if not found or found[1] != page.stem]


def _unnamed(alerts):
    """Disagreements between the runbooks' index, which lists the alerts that page, and the rules."""
    text = (RUNBOOKS / "README.md").read_text()
    said = set(re.findall(r"`(ManaSync\w+)`", text[text.index("**Who is woken.**") :].partition("\n")[0]))
    paging = {alert["alert"] for alert in alerts if alert["labels"]["severity"] == "page"}
    unknown = set(re.findall(r"`(ManaSync\w+)`", text)) - {alert["alert"] for alert in alerts}
    return [f"{name}: its severity disagrees with README.md" for name in sorted(said ^ paging)] + [f"there is no {name}" for name in sorted(unknown)]


def _unlinked():
    titles = {(str(panel["id"]), panel["title"]) for panel in panels()}
    problems = []
    for page in sorted(RUNBOOKS.glob("ManaSync*.md")):
        links = re.findall(r"\[([^\]]+)\]\(\S+/d/mana-sync\?viewPanel=(\d+)\)", page.read_text())
        problems += [f"{page}: no panel {number} {title!r}" for title, number in links if (number, title) not in titles]
        problems += [] if links else [f"{page} links to no panel"]
    return problems


def _untested(alerts):
    fires, silent = set(), set()
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test.get("alert_rule_test", []):
            expected = case["exp_alerts"]
            (fires if expected else silent).add(case["alertname"])
            for alert in expected:
                labels = alert["exp_labels"]
                fires.add((case["alertname"], labels.get("severity"), labels.get("window")))
    problems = []
    for alert in alerts:
        name, labels = alert["alert"], alert["labels"]
        if (name, labels["severity"], labels.get("window")) not in fires:
            problems.append(f"{name} ({labels}): no test in which it fires")
        if name not in silent:
            problems.append(f"{name}: no test in which it stays silent")
    return problems


def _undocumented(metrics):
    rows = re.findall(r"^\| `(mana_sync_\w+)` \| (\w+) \|([^|]*)\|", Path("docs/metrics.md").read_text(), re.M)
    documented = {name: (kind, ",".join(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    problems = [f"{name} is not in docs/metrics.md" for name in metrics if name not in documented]
    for name, as_documented in documented.items():
        if name not in metrics:
            problems.append(f"docs/metrics.md has {name}, which the server does not have")
        elif metrics[name] != as_documented:
            problems.append(f"{name} is {metrics[name]}, documented as {as_documented}")
    return problems
