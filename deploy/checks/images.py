"""Checks that the Dockerfiles' contexts have, and copy, everything that a program is built from."""

import re
from pathlib import Path

# The folder of the crate that each builds.
DOCKERFILES = {Path("deploy/Dockerfile"): Path("."), Path("dev/Dockerfile"): Path("dev"), Path("loadtest/Dockerfile"): Path("loadtest")}
# Macros that build files into a program.
BUILT_IN = re.compile(r"\b(include\w*|migrate|embed_\w+|query_file\w*)!\s*\(\s*([^)]*?)\s*\)")


def problems(file, crate):
    """Files that the crate's program is built from and that the image's build does not have."""
    is_left_out, copied = _dockerignore(file), _copied(file)
    found = []
    for path, why in _built_from(crate):
        if path is None:
            found.append(f"{why}: cannot tell which file is built in")
        elif not path.exists():
            found.append(f"{why}: {path} is not there")
        elif not any(path == source or source in path.parents for source in copied):
            found.append(f"{why}: {file} does not copy {path} to where it is expected")
        elif is_left_out(path):
            found.append(f"{why}: {file}.dockerignore excludes {path}")
    return found + [f"{file} copies {source}, which {file}.dockerignore excludes" for source in sorted(copied) if is_left_out(source)]


def _built_from(crate):
    """Each file or folder that is read, and what reads it."""
    yield crate / "Cargo.toml", "cargo"
    for source in sorted((crate / "src").rglob("*.rs")):
        yield source, "cargo"
        # Tests are not built for an image.
        text = source.read_text().split("#[cfg(test)]\nmod tests {")[0]
        for macro, argument in BUILT_IN.findall(re.sub(r"//[^\n]*", "", text)):
            # sqlx's paths start from the manifest, Rust's from the file.
            start = crate if macro == "migrate" or macro.startswith("query_file") else source.parent
            literal = re.match(r'"([^"]*)"', argument)
            inside = literal[1] if literal else "migrations" if macro == "migrate" and not argument else None
            yield (_plain(start / inside) if inside is not None else None), f"{source}: {macro}!"
    script = crate / "build.rs"
    if script.exists():
        yield script, "cargo"
        for path in re.findall(r"rerun-if-changed=([\w./-]+)", script.read_text()):
            yield _plain(crate / path), str(script)


def _plain(path):
    """The path from the repository's root, without `..`."""
    return path.resolve().relative_to(Path.cwd().resolve())


def _copied(file):
    """Paths that the build stage copies to their place in the repository."""
    stage = file.read_text().split("FROM scratch")[0].replace("\\\n", " ")
    copied = set()
    for arguments in re.findall(r"^COPY (?!--from)(.*)$", stage, re.M):
        *sources, target = arguments.split()
        for source in map(Path, sources):
            # COPY copies the content of a folder, or a file itself.
            lands = Path(target) / source.name if target.endswith("/") and not source.is_dir() else Path(target)
            if lands == source:
                copied.add(source)
    return copied


def _dockerignore(file):
    """Returns whether a path is excluded from the context: the last matching pattern decides. Supports only `*` and plain paths."""
    lines = [line.strip() for line in Path(f"{file}.dockerignore").read_text().splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]

    def is_left_out(path):
        fits = [pattern for pattern in patterns if pattern == "*" or Path(pattern.lstrip("!")) in (path, *path.parents)]
        # A copied folder may be included piece by piece.
        inside = any(pattern.startswith("!") and path in Path(pattern[1:]).parents for pattern in patterns)
        return not inside and bool(fits) and not fits[-1].startswith("!")

    return is_left_out
