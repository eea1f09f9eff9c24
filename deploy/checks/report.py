"""Prints one line for each check, and knows whether all of them passed."""

import os
import subprocess
from pathlib import Path

TOOLS = Path(os.environ["OPS_TOOLS"]).resolve()
_failed = []
_passed = 0


def line(name, problems):
    """Reports a check with its problems, which are strings."""
    global _passed
    problems = [str(problem) for problem in problems]
    print(f"{'FAIL' if problems else 'ok  '}  {name}", flush=True)
    for problem in problems:
        print("        " + problem.strip().replace("\n", "\n        "))
    if problems:
        _failed.append(name)
    else:
        _passed += 1


def skip(name, why):
    print(f"skip  {name}: {why}", flush=True)


def tool(name):
    """The path of a program in the virtual environment."""
    return str(TOOLS / "venv" / "bin" / name)


def run(name, command, bad_output=None, **options):
    """Reports whether a command succeeds; with `bad_output`, lines that contain it are problems too."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    output = done.stdout + done.stderr
    if done.returncode != 0:
        line(name, [output or f"exit status {done.returncode}"])
    else:
        line(name, [text for text in output.splitlines() if bad_output and bad_output in text])
    return done.stdout


def finish():
    print(f"{_passed} passed, {len(_failed)} failed")
    return 1 if _failed else 0
