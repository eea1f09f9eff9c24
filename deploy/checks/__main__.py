"""The checks of scripts/check-ops, which installs their tools."""

import sys
import tempfile
from pathlib import Path

import alerts
import chart
import examples
import files
import kubernetes
import panels
import report
import source
import workflows


def main(arguments):
    if arguments[:1] == ["--panels"]:
        panels.check(arguments[1])
        return report.finish()
    if arguments == ["--write"]:
        alerts.write_copies()
    elif arguments:
        sys.exit("usage: scripts/check-ops [--write | --panels URL]")
    settings = source.settings()
    files.check(settings)
    alerts.check(source.metrics())
    workflows.check()
    with tempfile.TemporaryDirectory() as folder:
        scanned = Path(folder)
        chart.check(kubernetes.check(settings, scanned), settings, scanned)
        examples.check()
        kubernetes.scan_posture(scanned)
    return report.finish()


sys.exit(main(sys.argv[1:]))
