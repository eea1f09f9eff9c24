"""A cluster of two replicas with its own database, and clients that write, read and listen."""

import http.client
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse

from proxy import Proxy
from stubs import Front

EXE = os.environ["MANA_SYNC_EXE"]
FOLDER = os.environ["REHEARSAL_FOLDER"]
PSQL = os.path.join(os.environ["PG_BIN"], "psql")
DATABASE = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
# Number of writing clients per replica, which pause after each request: enough for the rules' minimum counts in windows
# this short, and so that requests that wait do not occupy all of them.
WRITERS, PAUSE = 6, 2.0
# As long as browsers wait, and longer than a replica makes anybody wait.
PATIENCE = 30


def sql(database, text, wait=True):
    """Runs SQL as the superuser, and waits for it unless `wait` is false. Returns the process."""
    url = DATABASE._replace(path=f"/{database}").geturl()
    null = subprocess.DEVNULL
    run = subprocess.Popen([PSQL, "-qXv", "ON_ERROR_STOP=1", url, "-c", text], stdin=null, stdout=null, stderr=null)
    if wait and run.wait() != 0:
        raise SystemExit(f"{database}: {text} failed")
    return run


def free_port():
    """A free port below those of outgoing connections, one of which could take it before a program listens there."""
    while True:
        port = random.randrange(15_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            pass


class Cluster:
    def __init__(self, name, factor, settings, proxied, outside):
        """`proxied`: PostgreSQL is reached through proxies that can be broken; `outside`: so are external services."""
        self.name, self.database = name, "rehearsal_" + name.replace("-", "_")
        if proxied:
            self.proxy, self.listen_proxy = Proxy(DATABASE.port), Proxy(DATABASE.port)
        ports = (self.proxy.port, self.listen_proxy.port) if proxied else (DATABASE.port, DATABASE.port)
        self.processes, self.ports, self.clients, self.token, self.stopped = [], [], None, None, False
        sql("postgres", f"create database {self.database}")
        self.env = {
            **os.environ,
            "DATABASE_URL": self._url(ports[0]),
            "DATABASE_LISTEN_URL": self._url(ports[1]),
            "BIND_ADDRESS": "127.0.0.1",
            "DATABASE_POOL_SIZE": "4",
            # Settings that the rules' waits depend on are divided like the rules.
            "READY_GRACE_MS": str(5_000 // factor),
            "JWKS_REFRESH_MS": str(300_000 // factor),
            "BILLING_CACHE_MS": str(300_000 // factor),
            "BILLING_RETRY_MS": str(15_000 // factor),
            "LOG_FORMAT": "text",
            **settings,
        }
        if outside:
            self.issuer, self.credits = Front(os.environ["JWKS_URL"]), Front(os.environ["MANA_CREDITS_URL"])
            self.env |= {"JWKS_URL": self.issuer.like, "MANA_CREDITS_URL": self.credits.like}
        subprocess.run([EXE, "migrate"], env=self.env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _url(self, port):
        where = DATABASE.netloc.rsplit("@", 1)[0]
        return DATABASE._replace(netloc=f"{where}@127.0.0.1:{port}", path=f"/{self.database}").geturl()

    def start(self, port=None, **more):
        """Starts one more replica, or replaces the one that had this port."""
        if port is None:
            port = free_port()
            self.ports.append(port)
        env = {**self.env, "PORT": str(port), "REPLICA_ID": f"{self.name}-{len(self.processes) + 1}", **more}
        log = open(os.path.join(FOLDER, f"{env['REPLICA_ID']}.log"), "w")
        self.processes.append(subprocess.Popen([EXE, "serve"], env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def wait_ready(self):
        until = time.monotonic() + 90
        for port in self.ports:
            while _get(port, "/health/ready") != 200:
                if time.monotonic() > until:
                    raise SystemExit(f"{self.name} does not become ready: see its log in {FOLDER}")
                time.sleep(0.1)

    def signal(self, index, number):
        self.processes[index].send_signal(number)

    def pool(self):
        """Starts a PgBouncer in transaction mode in front of PostgreSQL, and returns its port."""
        folder = tempfile.mkdtemp(dir=FOLDER)
        # It does not run as root.
        os.chmod(folder, 0o755)
        port, file = free_port(), os.path.join(folder, "pgbouncer.ini")
        with open(file, "w") as settings:
            settings.write(
                f"[databases]\n* = host=127.0.0.1 port={DATABASE.port} user={DATABASE.username}\n[pgbouncer]\n"
                f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
                "pool_mode = transaction\nignore_startup_parameters = options\n"
            )
        other = ["-u", "nobody"] if os.getuid() == 0 else []
        null = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(["pgbouncer", file, *other], stdin=null, stdout=null, stderr=null))
        _wait_for(port)
        return port

    def push(self, app):
        """Stores a change of another device, and returns that device's cursor."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        change = {"table": "tasks", "id": "idle", "op": "insert", "data": {"updatedAt": stamp}}
        body = json.dumps({"clientId": "idle", "changes": [change]})
        status, text = _reply(self.ports[0], "POST", f"/sync/{app}", self.token, body)
        if status != 200:
            raise SystemExit(f"{self.name}: a push was answered {status}: {text}")
        return json.loads(text)["syncedUntil"]

    def pull(self, app, cursor):
        """Pulls like that device when it returns."""
        since = urllib.parse.quote(cursor)
        _request(self.ports[0], "GET", f"/sync/{app}/pull?collection=tasks&since={since}", self.token)

    def use(self, token):
        """Starts each replica's clients, which write, read and listen, in a separate process."""
        self.token = token
        self.clients = multiprocessing.Process(target=self._use, args=(token,), daemon=True)
        self.clients.start()

    def _use(self, token):
        for index, port in enumerate(self.ports):
            for writer in range(WRITERS):
                threading.Thread(target=self._write, args=(port, f"{index}-{writer}", token), daemon=True).start()
            threading.Thread(target=self._listen, args=(port, index, token), daemon=True).start()
        threading.Event().wait()

    def _write(self, port, index, token):
        count = 0
        time.sleep(random.random() * PAUSE)
        while True:
            count += 1
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
            data = {"title": f"{count}", "createdAt": stamp, "updatedAt": stamp}
            change = {"table": "tasks", "id": f"{index}-{count}", "op": "insert", "data": data}
            body = {"clientId": f"writer-{index}", "changes": [change]}
            _request(port, "POST", "/sync/todo", token, json.dumps(body))
            _request(port, "GET", f"/sync/todo/pull?collection=tasks&since={urllib.parse.quote(stamp)}", token)
            time.sleep(PAUSE)

    def _listen(self, port, index, token):
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
                path = f"/sync/todo/stream?collections=tasks&clientId=listener-{index}"
                connection.request("GET", path, headers=headers)
                reply = connection.getresponse()
                while reply.status == 200 and reply.read1(65536):
                    pass
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(PAUSE)

    def stop(self):
        self.stopped = True
        if self.clients:
            self.clients.kill()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.processes:
            process.wait()


def _get(port, path):
    return _request(port, "GET", path, None)


def _wait_for(port):
    until = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _request(port, method, path, token, body=None):
    """Returns the status, or None if there is no answer."""
    return _reply(port, method, path, token, body)[0]


def _reply(port, method, path, token, body=None):
    """Returns the status and the text of the answer, or None for both if there is none."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body:
        headers["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    except (OSError, http.client.HTTPException):
        return None, None
    finally:
        connection.close()
