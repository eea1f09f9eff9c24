"""Checks the runbooks' commands that need no database: promtool parses the queries, and kubectl its own commands.

tests/process/runbooks.rs runs those for the shell and the database against a cluster."""

import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

import report
import yaml

PAGES = Path("docs/runbooks")
# Other documents whose kubectl commands are checked.
BESIDE = [Path("docs/operations.md"), Path("docs/admin.md"), Path("k8s/README.md")]
# Commands for resources without a namespace, or with their own.
EVERYWHERE = re.compile(r"\bget nodes\b|\bapply -k\b")
QUERY = re.compile(r"^(sum|count|max|min|avg|rate|increase|histogram_quantile|topk|mana_sync_)\b|^mana_sync[_:]")
# Placeholders that the reader fills in.
GAPS = {"<pod>": "mana-sync-0", "<url>": "http://127.0.0.1:9"}


def check(unknown):
    pages, queries = _pages(), all_queries()
    report.line("runbooks: queries name metrics that exist", [f"{page}: {problem}" for page, query in queries for problem in unknown(query)])
    _parse(queries)
    commands = [(page, command) for page in [*pages, *BESIDE] for command in kubectl_commands(page.read_text())]
    report.line("runbooks: kubectl understands its commands", [problem for page, command in commands for problem in _misunderstood(page, command)])
    short = [f"{page}: {command}" for page, command in commands if re.search(r"\blogs\b.* -l ", command) and "--tail=-1" not in command]
    report.line("runbooks: logs of several pods are not cut to ten lines", short)
    elsewhere = [f"{page}: {command}" for page, command in commands if " -n mana-sync " not in command and not EVERYWHERE.search(command)]
    report.line("runbooks: commands name the namespace", elsewhere)


def _pages():
    return {page: page.read_text() for page in sorted(PAGES.glob("*.md"))}


def all_queries():
    """(page, query) for every Prometheus query."""
    return [(page, query) for page, text in _pages().items() for query in _spans(text) if QUERY.match(query)]


def _spans(text):
    """The text between backquotes, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M))


def _parse(queries):
    rules = [{"record": f"runbook:{number}", "expr": query} for number, (_, query) in enumerate(queries)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}, file)
        file.flush()
        report.run(f"runbooks: promtool parses {len(queries)} queries", ["promtool", "check", "rules", file.name])


def kubectl_commands(text):
    """The kubectl commands of a page, in blocks and between backquotes."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, flags=re.S | re.M)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines + _spans(text) if line.startswith("kubectl ") and " " in line.removeprefix("kubectl ")]


def _misunderstood(page, command):
    """Runs the command against a cluster that does not exist: if the connection is refused, kubectl has understood the rest."""
    for gap, filling in GAPS.items():
        command = command.replace(gap, filling)
    words = shlex.split(command.split(" | ")[0], comments=True)[1:]
    if "apply" in words:
        # It would need secrets that are not in the repository; scripts/check-ops renders what it applies.
        return []
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(_nowhere(), file)
        file.flush()
        environment = os.environ | {"KUBECONFIG": file.name}
        command = [report.tool("kubectl"), "--request-timeout=2s", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    return [] if "connection refused" in done.stderr or "was refused" in done.stderr else [f"{page}: {' '.join(words)}: {done.stderr}"]


def _nowhere():
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "nowhere", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere", "user": "nobody"}}],
        "current-context": "nowhere",
    }
