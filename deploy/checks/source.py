"""Reads settings with their defaults, and metrics, from the source code."""

import re
from pathlib import Path


def settings():
    """Every setting of src/config.rs and src/config/ by its name in the environment, with its default (None: it has none). Beside
    them the time limits of a stop: STEP_TIMEOUT_MS after each of its stages (src/shutdown.rs), CLOSE_TIMEOUT_MS for the
    connections to the database (src/app.rs), and FLUSH_TIMEOUT_MS for the last traces (src/main.rs)."""
    files = [Path("src/config.rs"), *sorted(Path("src/config").glob("*.rs"))]
    text = "\n".join(file.read_text() for file in files)
    found = {}
    for attribute, name in re.findall(r"#\[arg\((long, env[^\n]*)\)\]\s*pub (\w+):", text):
        default = re.search(r'default_value(?:_t)? = (?:"([^"]*)"|(\d[\d_]*)(?: << (\d+))?)', attribute)
        quoted, number, shift = default.groups() if default else (None, None, None)
        found[name.upper()] = str(int(number.replace("_", "")) << int(shift or 0)) if number else quoted
    for name, file in {"STEP": "shutdown.rs", "CLOSE": "app.rs", "FLUSH": "main.rs"}.items():
        limit = re.search(rf"const {name}_TIMEOUT: Duration = Duration::from_secs\((\d+)\)", (Path("src") / file).read_text())
        if not limit:
            raise SystemExit(f"src/{file} does not look like deploy/checks/source.py expects: it has no {name}_TIMEOUT")
        found[f"{name}_TIMEOUT_MS"] = str(int(limit.group(1)) * 1000)
    if "DRAIN_WINDOW_MS" not in found:
        raise SystemExit("src/config.rs does not look like deploy/checks/source.py expects")
    return found


def metrics():
    """Every metric of src/telemetry/metrics.rs and apps.rs by its name: type and labels, comma-separated (empty: none)."""
    files = [Path("src/telemetry") / name for name in ("metrics.rs", "apps.rs")]
    text = "\n".join(file.read_text().split("#[cfg(test)]")[0] for file in files)
    pattern = r'\b(?:\w+_)?(gauge|counter|histogram)s?\(\s*(?:&?[\w.]+,\s*)?"(mana_sync_\w+)",\s*"[^"]*"(?:,\s*"(\w+)")?'
    found = {name: (kind, label) for kind, name, label in re.findall(pattern, text)}
    pair = r'\("(\w+)", (?:\w+|env!\("\w+"\))\)'
    paired = r'\bpaired_(counter|gauge)s?\(\s*&?[\w.]+,\s*"(mana_sync_\w+)",\s*"[^"]*",\s*' + rf"{pair},\s*{pair}"
    found |= {name: (kind, f"{label},{other}") for kind, name, label, other in re.findall(paired, text)}
    for name in re.findall(r'"(mana_sync_\w+)"', text):
        if name not in found:
            raise SystemExit(f"src/telemetry has {name} in a way that deploy/checks/source.py cannot read")
    return found
