"""Makes the images that the manifests name: ours from their Dockerfiles, the others from this machine's programs.

No registry is asked: PostgreSQL and curl are Debian's, arranged like the images whose names they get."""

import os
import re
import shutil
import subprocess
from pathlib import Path

SERVER = "registry.example.com/mana-sync"
# docker.io/library is what Kubernetes adds to a short name.
POSTGRES = "docker.io/library/postgres"
CURL = "docker.io/curlimages/curl"
NAMED = re.compile(r"\bimage: (postgres:[\w.-]+)|--image=(docker\.io/curlimages/curl:[\w.-]+)")

ENTRYPOINT = """#!/bin/sh
# As the official image: makes a database at the first start, and takes options for the server.
set -eu
PATH=/usr/lib/postgresql/bin:$PATH
export PATH PGDATA=/var/lib/postgresql/18/docker
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --encoding=UTF8 --locale=C --auth-local=trust --auth-host=scram-sha-256 --no-sync
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    echo "create database $POSTGRES_DB;" | postgres --single -j postgres
fi
exec postgres -c listen_addresses='*' "$@"
"""
# The first process of a pod, which holds its network.
PAUSE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int s) { _exit(0); }
static void reap(int s) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGTERM, leave); signal(SIGINT, leave); signal(SIGCHLD, reap); for (;;) pause(); }
"""


class Builder:
    """Archives of images, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.storage = ["--root", folder / "storage", "--runroot", folder / "run", "--storage-driver", "vfs"]
        folder.mkdir()

    def ours(self, dockerfile, name, program):
        """The last stage of a Dockerfile, with this program as what the first stage would have built."""
        root = self.folder / "stage"
        shutil.rmtree(root, ignore_errors=True)
        _copy(Path("/etc/ssl/certs/ca-certificates.crt"), root)
        (root / "out").mkdir()
        shutil.copy(program, root / "out" / program.name)
        linked = root / "linked"
        linked.mkdir()
        for library in _libraries([program]):
            _copy(library, linked)
        text = "FROM scratch" + Path(dockerfile).read_text().rpartition("FROM scratch")[2]
        if any(linked.iterdir()):
            text += "\nCOPY --from=build /linked /\n"
        return self._build(name, text, root)

    def pause(self, name):
        root = self._empty()
        (self.folder / "pause.c").write_text(PAUSE)
        subprocess.run(["cc", "-O", "-static", "-o", root / "pause", self.folder / "pause.c"], check=True)
        return self._build(name, 'FROM scratch\nCOPY --from=build / /\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n', root)

    def curl(self, name):
        root = self._with(["curl"])
        _copy(Path("/etc/ssl/certs/ca-certificates.crt"), root)
        (root / "etc/passwd").write_text("curl_user:x:100:101::/home/curl_user:/bin/sh\n")
        return self._build(name, 'FROM scratch\nCOPY --from=build / /\nUSER curl_user\nENTRYPOINT ["/usr/bin/curl"]\n', root)

    def postgres(self, name):
        installed = max(Path("/usr/lib/postgresql").iterdir(), key=lambda path: int(path.name))
        root = self._with(["sh", "mkdir", "rm"])
        shutil.copytree(installed / "bin", root / "usr/lib/postgresql/bin", symlinks=False)
        share = Path("/usr/share/postgresql", installed.name)
        # Programs find these by their own place, which is not Debian's here.
        shutil.copytree(installed / "lib", root / installed.relative_to("/") / "lib", ignore=shutil.ignore_patterns("bitcode", "llvmjit*"))
        shutil.copytree(installed / "bin", root / installed.relative_to("/") / "bin")
        shutil.copytree(share, root / share.relative_to("/"), ignore=shutil.ignore_patterns("man"))
        shutil.copytree("/usr/share/zoneinfo", root / "usr/share/zoneinfo", symlinks=True)
        binaries = [path for kind in ("bin/*", "lib/*.so") for path in installed.glob(kind) if "llvmjit" not in path.name]
        for library in _libraries(binaries):
            _copy(library, root)
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n")
        for place in ("tmp", "var/lib/postgresql", "var/run/postgresql"):
            (root / place).mkdir(parents=True)
        script = root / "docker-entrypoint.sh"
        script.write_text(ENTRYPOINT.replace("/usr/lib/postgresql/bin", f"{installed}/bin"))
        script.chmod(0o755)
        shutil.rmtree(root / "usr/lib/postgresql/bin")
        path = f"{installed}/bin:/usr/bin:/bin"
        return self._build(name, f'FROM scratch\nCOPY --from=build / /\nENV PATH={path} LANG=C\nENTRYPOINT ["/docker-entrypoint.sh"]\n', root)

    def _empty(self):
        root = self.folder / "stage"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        return root

    def _with(self, programs):
        """A root with these programs and what they link to."""
        root = self._empty()
        found = [Path(shutil.which(program)).resolve() for program in programs]
        for name, program in zip(programs, found):
            (root / "usr/bin").mkdir(parents=True, exist_ok=True)
            shutil.copy(program, root / "usr/bin" / name)
        for library in _libraries(found):
            _copy(library, root)
        if not (root / "bin").exists():
            (root / "bin").symlink_to("usr/bin")
        return root

    def _build(self, name, dockerfile, root):
        file, archive = self.folder / "Dockerfile", self.folder / f"{re.sub('[^a-z0-9.]', '-', name)}.tar"
        file.write_text(dockerfile)
        build = ["--isolation", "chroot", "--format", "docker", "--quiet", "--build-context", f"build={root}", "-t", name, "-f", file, root]
        for words in (["build", *build], ["push", "--quiet", name, f"docker-archive:{archive}:{name}"], ["rmi", name]):
            subprocess.run(["buildah", words[0], *self.storage, *words[1:]], check=True, capture_output=True, text=True)
        return archive


def _libraries(programs):
    found = set()
    for program in programs:
        done = subprocess.run(["ldd", program], capture_output=True, text=True)
        found |= set(re.findall(r"(/[^ ]*\.so[^ ]*)", done.stdout))
    return sorted(map(Path, found))


def _copy(file, root):
    target = root / file.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)


def named(*folders):
    """The images of others that manifests and pages name."""
    files = [file for folder in folders for file in Path(folder).rglob("*") if file.suffix in (".yaml", ".md")]
    return {name for file in files for pair in NAMED.findall(file.read_text()) for name in pair if name}


def all_archives(folder, programs):
    """(name, archive) of every image."""
    builder = Builder(folder)
    ours = {f"{SERVER}:dev": ("deploy/Dockerfile", "mana-sync"), f"{SERVER}-dev:dev": ("dev/Dockerfile", "mana-dev")}
    made = [(name, builder.ours(file, name, programs / program)) for name, (file, program) in ours.items()]
    for name in named("k8s", "docs/runbooks"):
        full = name if "/" in name else f"docker.io/library/{name}"
        made.append((full, builder.curl(full) if "curl" in name else builder.postgres(full)))
    return made, builder
