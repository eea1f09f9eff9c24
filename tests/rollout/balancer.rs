//! A real load balancer in front of the replicas, with the configuration from `deploy/`: only ports, addresses, the
//! certificate, the name server and HAProxy's slow start differ, as all timings are shorter here.

use crate::names::Names;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::{Child, Command};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    HaProxy,
    Nginx,
    Caddy,
}

/// The load balancer, which stops when this is dropped.
#[derive(Debug)]
pub struct Balancer {
    pub url: String,
    kind: Kind,
    ports: Ports,
    names: Arc<Names>,
    process: Child,
    folder: tempfile::TempDir,
}

/// The ports it listens on without and with TLS, and the port of the replicas.
#[derive(Clone, Copy, Debug)]
struct Ports {
    plain: u16,
    tls: u16,
    replicas: u16,
}

impl Balancer {
    /// Starts the balancer for replicas that listen on this port, and waits until it accepts connections. It knows none
    /// yet.
    ///
    /// `pace`: the replicas' timings relative to production.
    pub async fn start(kind: Kind, replicas_port: u16, candidates: &[Ipv4Addr], pace: f64) -> Balancer {
        let names = Arc::new(Names::start().await);
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports { plain: free_port(), tls: free_port(), replicas: replicas_port };
        certify(folder.path()).await;
        let mut command = match kind {
            Kind::HaProxy => haproxy(folder.path(), ports, names.at, pace),
            Kind::Nginx => nginx(folder.path(), ports),
            Kind::Caddy => caddy(folder.path(), ports, candidates),
        };
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        let process = command.spawn().expect("setpriv, of util-linux, is on every Debian");
        let url = format!("http://127.0.0.1:{}", ports.plain);
        let balancer = Balancer { url, kind, ports, names, process, folder };
        balancer.answers().await;
        balancer
    }

    /// True if Caddy is installed, which Debian does not package.
    pub fn caddy_is_here() -> bool {
        std::env::split_paths(&path_to_caddy()).any(|folder| folder.join("caddy").is_file())
    }

    /// The URL for browsers, with the name in the certificate.
    pub fn tls_url(&self) -> String {
        format!("https://localhost:{}", self.ports.tls)
    }

    /// Waits for any response: nginx accepts connections before it handles signals.
    async fn answers(&self) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = async || http.get(format!("{}/health/ready", self.url)).send().await.ok();
        let answered = mana_dev::wait::until(crate::support::TIMEOUT, ask).await;
        assert!(
            answered.is_some(),
            "{:?} does not answer at {} and {} (scripts/check-ops --install installs it):\n{}",
            self.kind,
            self.url,
            self.tls_url(),
            self.log()
        );
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Announces the current replicas. While some are not ready, only a balancer that checks readiness itself is told.
    pub fn set(&self, addresses: Vec<Ipv4Addr>, all_are_ready: bool) {
        match self.kind {
            Kind::Nginx if !all_are_ready => {}
            Kind::HaProxy => self.names.set(addresses),
            Kind::Nginx => {
                std::fs::write(
                    self.folder.path().join("nginx.conf"),
                    nginx_conf(self.folder.path(), self.ports, &addresses),
                )
                .unwrap();
                let pid = self.process.id().expect("nginx runs until it is dropped").cast_signed();
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP).unwrap();
            }
            // It knows all possible addresses from the start, and checks which of them respond.
            Kind::Caddy => {}
        }
    }
}

/// A port that is free and stays so: below the ephemeral port range.
fn free_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(20_000..32_000)).take(100).find(free).expect("some port is free")
}

/// The certificate and its key in one file, in a folder of its own.
fn certificate(folder: &Path) -> PathBuf {
    folder.join("certificates/site.pem")
}

/// Creates a self-signed certificate for `localhost`.
async fn certify(folder: &Path) {
    let file = certificate(folder);
    std::fs::create_dir(file.parent().expect("a file is in a folder")).unwrap();
    let (key, own) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let mut command = program("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    let made = command.arg("-keyout").arg(&key).arg("-out").arg(&own).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |path| std::fs::read_to_string(path).unwrap();
    std::fs::write(file, read(&own) + &read(&key)).unwrap();
}

/// A program that ends with this process, however it ends.
fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", name]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
    command
}

/// A file of `deploy/` with these texts replaced; it must contain all of them.
fn deployed(name: &str, texts: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in texts {
        assert!(text.contains(from), "deploy/{name} no longer has {from:?}: this test has to follow");
        text = text.replace(from, to);
    }
    text
}

fn haproxy(folder: &Path, ports: Ports, names: SocketAddr, pace: f64) -> Command {
    let scaled = |seconds: f64| format!("{}ms", (seconds * pace * 1_000.0).ceil());
    let text = deployed(
        "haproxy.cfg",
        &[
            ("*:${PORT}", format!("127.0.0.1:{}", ports.plain)),
            ("*:${TLS_PORT}", format!("127.0.0.1:{}", ports.tls)),
            ("${CERTIFICATES}", folder.join("certificates").display().to_string()),
            ("*:8405", format!("127.0.0.1:{}", free_port())),
            ("parse-resolv-conf", format!("nameserver test {names}")),
            ("mana-sync:3050", format!("mana-sync:{}", ports.replicas)),
            // Short compared with the window of rebalancing, which must stay so.
            ("hold valid 5s", format!("hold valid {}", scaled(5.0))),
            ("slowstart 10s", format!("slowstart {}", scaled(10.0))),
            // As many files as any machine allows.
            ("maxconn 50000", "maxconn 4000".to_owned()),
        ],
    );
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, text).unwrap();
    let mut command = program("haproxy");
    command.arg("-db").arg("-f").arg(path);
    command
}

fn nginx_conf(folder: &Path, ports: Ports, addresses: &[Ipv4Addr]) -> String {
    let Ports { plain, tls, replicas } = ports;
    let server = |number: u16| format!("server 127.0.0.1:{} max_fails=1 fail_timeout=2s;", 3050 + number);
    let mut servers = String::new();
    for address in addresses {
        writeln!(servers, "server {address}:{replicas} max_fails=1 fail_timeout=2s;").unwrap();
    }
    if addresses.is_empty() {
        servers = format!("server 127.0.0.1:{replicas} down;");
    }
    deployed(
        "nginx.conf",
        &[
            (&server(1), servers),
            (&server(2), String::new()),
            (&server(3), String::new()),
            ("listen 3050;", format!("listen 127.0.0.1:{plain};")),
            ("listen 3443 ", format!("listen 127.0.0.1:{tls} ")),
            ("/etc/mana-sync/certificates/site.pem", certificate(folder).display().to_string()),
            ("pid /tmp/nginx.pid;", "pid nginx.pid;".to_owned()),
            ("worker_rlimit_nofile 65536;", String::new()),
            ("worker_connections 32768;", "worker_connections 8192;".to_owned()),
        ],
    )
}

fn nginx(folder: &Path, ports: Ports) -> Command {
    let path = folder.join("nginx.conf");
    std::fs::write(&path, nginx_conf(folder, ports, &[])).unwrap();
    let mut command = program("nginx");
    command.arg("-p").arg(folder).args(["-e", "stderr", "-g", "daemon off;", "-c"]).arg(path);
    command
}

/// The PATH, extended by the folder in which `make check-ops` installs Caddy.
fn path_to_caddy() -> OsString {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ops-tools/venv/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([fetched]);
    std::env::join_paths(folders).expect("no folder on the path has a colon in its name")
}

fn caddy(folder: &Path, ports: Ports, candidates: &[Ipv4Addr]) -> Command {
    assert!(Balancer::caddy_is_here(), "scripts/check-ops --install installs Caddy");
    let all: Vec<String> = candidates.iter().map(|address| format!("{address}:{}", ports.replicas)).collect();
    let mut command = program("caddy");
    command.env("PATH", path_to_caddy());
    command.env("PORT", ports.plain.to_string()).env("TLS_PORT", ports.tls.to_string());
    command.env("REPLICAS", all.join(" ")).env("CERTIFICATE", certificate(folder));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/Caddyfile");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command
}
