"""Starts a Kubernetes of one node: etcd, the control plane, containerd and a kubelet, with certificates of its own.

Everything runs in namespaces for processes, mounts, networks and control groups (see __main__.py), so addresses and ports
are free, and the kernel removes whatever is left when the first process ends."""

import os
import shutil
import subprocess
from pathlib import Path

import yaml
from api import ADDRESS, PORT, Failed, until

SERVICES, PODS, DNS = "10.96.0.0/16", "10.244.0.0/24", "10.96.0.10"
NODE = "node"
# What a kubelet would set for the whole machine, which it leaves alone if it is so already.
KERNEL = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
PAUSE = "registry.k8s.io/pause:3.10"


class Node:
    def __init__(self, folder, programs):
        self.folder, self.programs, self.processes = folder, programs, {}
        self.logs = folder / "logs"
        self.logs.mkdir()

    def start(self):
        self._isolate()
        self._certificates()
        self.run("etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync", "--listen-client-urls=http://127.0.0.1:2379",
                 "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380")
        self.run("kube-apiserver", *self._api_server())
        self.run("containerd", "--config", self._containerd())
        control = lambda name: ["--kubeconfig", self.folder / f"{name}.kubeconfig", "--leader-elect=false", "--bind-address=127.0.0.1"]
        self._answers("kube-apiserver", lambda: self._asks("get", "--raw=/readyz"))
        self.run("kube-controller-manager", *control("controller-manager"), "--use-service-account-credentials",
                 # A fifth of the default, which only makes the checks shorter.
                 "--horizontal-pod-autoscaler-sync-period=3s",
                 "--service-account-private-key-file", self.folder / "accounts.key", "--root-ca-file", self.folder / "ca.crt",
                 "--cluster-signing-cert-file", self.folder / "ca.crt", "--cluster-signing-key-file", self.folder / "ca.key")
        self.run("kube-scheduler", *control("scheduler"))
        self._answers("containerd", lambda: self._ctr("version"))
        self.run("kubelet", "--config", self._kubelet(), "--kubeconfig", self.folder / "kubelet.kubeconfig",
                 "--hostname-override", NODE, "--node-ip", ADDRESS, "--root-dir", self.folder / "kubelet",
                 "--node-labels=topology.kubernetes.io/zone=zone")

    def run(self, name, *arguments, **environment):
        log = open(self.logs / f"{name}.log", "ab")
        command = [self.programs / name, *map(str, arguments)]
        path = f"{self.programs}:{os.environ['PATH']}"
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PATH": path} | environment)

    def stop(self, *names):
        """Ends those of these programs that run."""
        for name in names:
            if process := self.processes.pop(name, None):
                process.terminate()
                process.wait()

    def _answers(self, name, condition):
        def answers():
            if self.processes[name].poll() is not None:
                raise Failed(f"{name} ended:\n{self.tail(name)}")
            return condition()

        until(f"{name} answers", answers)

    def tail(self, name, lines=15):
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def _asks(self, *words):
        command = ["kubectl", "--kubeconfig", self.folder / "admin.kubeconfig", *words]
        return subprocess.run(command, capture_output=True).returncode == 0

    def _client(self):
        return [self.programs / "ctr", "--address", "/run/containerd/containerd.sock"]

    def _ctr(self, *words):
        return subprocess.run([*self._client(), *words], capture_output=True).returncode == 0

    def add_image(self, archive):
        if not self._ctr("-n", "k8s.io", "images", "import", archive):
            raise Failed(f"containerd does not take {archive}")

    def name_image(self, name, other):
        """Gives an image another name."""
        if not self._ctr("-n", "k8s.io", "images", "tag", name, other):
            raise Failed(f"containerd does not call {name} {other}")

    def process(self, container):
        """The first process of a container."""
        tasks = subprocess.run([*self._client(), "-n", "k8s.io", "tasks", "list"], capture_output=True, text=True, check=True).stdout
        return next(line.split()[1] for line in tasks.splitlines() if line.startswith(container))

    def _isolate(self):
        """Hides what the programs would change outside of the temporary folder, and makes the network."""
        mount = lambda *words: subprocess.run(["mount", *map(str, words)], check=True)
        ip = lambda *words: subprocess.run(["ip", *words], check=True)
        mount("--make-rshared", "/")
        for place in ("/run", "/var/lib", "/var/log"):
            mount("-t", "tmpfs", "tmpfs", place)
        for name, value in KERNEL.items():
            file = self.folder / name.replace("/", "-")
            file.write_text(f"{value}\n")
            mount("--bind", file, f"/proc/sys/{name}")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        ip("link", "set", "lo", "up")
        ip("link", "add", "node0", "type", "bridge")
        ip("address", "add", f"{ADDRESS}/24", "dev", "node0")
        ip("link", "set", "node0", "up")
        ip("route", "add", SERVICES, "dev", "node0")
        ip("route", "add", "default", "dev", "node0")

    def _certificates(self):
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt")
        self._openssl("genrsa", "-out", "accounts.key", "2048")
        names = f"IP:127.0.0.1,IP:{ADDRESS},IP:10.96.0.1,DNS:kubernetes.default.svc,DNS:localhost"
        self.certificate("api-server", "/CN=kube-apiserver", names)
        self.certificate("front-proxy", "/CN=front-proxy")
        subjects = {
            "admin": "/O=system:masters/CN=admin",
            "controller-manager": "/CN=system:kube-controller-manager",
            "scheduler": "/CN=system:kube-scheduler",
            "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
        }
        for name, subject in subjects.items():
            self.certificate(name, subject)
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{PORT}", "certificate-authority": f"{self.folder}/ca.crt"}}],
                "users": [{"name": "u", "user": {"client-certificate": f"{self.folder}/{name}.crt", "client-key": f"{self.folder}/{name}.key"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
            (self.folder / f"{name}.kubeconfig").write_text(yaml.safe_dump(config))

    def certificate(self, name, subject, names=None):
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject,
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n" if names else "extendedKeyUsage=clientAuth\n")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "2",
                      "-extfile", extensions, "-out", f"{name}.crt")

    def _openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

    def _api_server(self):
        pki = lambda name: self.folder / name
        flags = {
            "etcd-servers": "http://127.0.0.1:2379",
            "advertise-address": ADDRESS,
            "secure-port": PORT,
            "service-cluster-ip-range": SERVICES,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "client-ca-file": pki("ca.crt"),
            "tls-cert-file": pki("api-server.crt"),
            "tls-private-key-file": pki("api-server.key"),
            "kubelet-client-certificate": pki("admin.crt"),
            "kubelet-client-key": pki("admin.key"),
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": pki("accounts.key"),
            "service-account-signing-key-file": pki("accounts.key"),
            # For APIs that others serve, such as metrics.k8s.io.
            "requestheader-client-ca-file": pki("ca.crt"),
            "requestheader-allowed-names": "front-proxy",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "proxy-client-cert-file": pki("front-proxy.crt"),
            "proxy-client-key-file": pki("front-proxy.key"),
            "enable-aggregator-routing": "true",
            # No resolver of the machine knows the node's name.
            "kubelet-preferred-address-types": "InternalIP",
        }
        return [f"--{name}={value}" for name, value in flags.items()]

    def _containerd(self):
        plugins = next((f for f in ("/usr/lib/cni", "/opt/cni/bin") if Path(f, "ptp").exists()), None)
        if plugins is None:
            raise Failed("there are no CNI plug-ins: install containernetworking-plugins")
        networks = self.folder / "networks"
        networks.mkdir()
        # Every packet between pods is routed by the node, where the rules for Services and policies are.
        (networks / "10-pods.conflist").write_text(f"""{{"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {{"type": "ptp", "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{PODS}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}""")
        config = self.folder / "containerd.toml"
        config.write_text(f"""
version = 3
root = "{self.folder}/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
# Where this machine withholds CAP_SYS_RESOURCE, nobody may lower a score.
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{networks}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{shutil.which('runc')}"
SystemdCgroup = false
""")
        return config

    def _kubelet(self):
        config = self.folder / "kubelet.yaml"
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, "x509": {"clientCAFile": f"{self.folder}/ca.crt"}},
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            # Newer kubelets refuse the first version of control groups unless told otherwise.
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "resolvConf": f"{self.folder}/resolv.conf",
            "podLogsDir": f"{self.folder}/pods",
            # Disks that are nearly full are this machine's business.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100,
        }
        (self.folder / "resolv.conf").write_text(f"nameserver {ADDRESS}\n")
        config.write_text(yaml.safe_dump(settings))
        return config
