//! A real balancer in front of the replicas, with the configuration that `deploy/` has for it: only ports, addresses
//! and the name server are others.

use crate::names::Names;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::{Child, Command};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    HaProxy,
    Nginx,
    Caddy,
}

/// The balancer, for as long as it is held.
#[derive(Debug)]
pub struct Balancer {
    pub url: String,
    kind: Kind,
    port: u16,
    replicas_port: u16,
    names: Arc<Names>,
    process: Child,
    folder: tempfile::TempDir,
}

impl Balancer {
    /// Starts it before replicas that listen on this port, and waits until it accepts. It knows of none yet.
    pub async fn start(kind: Kind, replicas_port: u16, candidates: &[Ipv4Addr]) -> Balancer {
        let names = Arc::new(Names::start().await);
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = match kind {
            Kind::HaProxy => haproxy(folder.path(), port, replicas_port, names.at),
            Kind::Nginx => nginx(folder.path(), port, replicas_port),
            Kind::Caddy => caddy(port, replicas_port, candidates),
        };
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        let process = command.spawn().expect("setpriv, of util-linux, is on every Debian");
        let url = format!("http://127.0.0.1:{port}");
        let balancer = Balancer { url, kind, port, replicas_port, names, process, folder };
        balancer.accepts().await;
        balancer
    }

    async fn accepts(&self) {
        let connect = async || tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.ok();
        let accepted = mana_sync::dev::wait::until(crate::support::PATIENCE, connect).await;
        assert!(
            accepted.is_some(),
            "{:?} does not accept (scripts/bootstrap tests, or scripts/check-ops, installs it):\n{}",
            self.kind,
            self.log()
        );
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Tells it which replicas there are.
    pub fn set(&self, addresses: Vec<Ipv4Addr>) {
        match self.kind {
            Kind::HaProxy => self.names.set(addresses),
            Kind::Nginx => {
                std::fs::write(
                    self.folder.path().join("nginx.conf"),
                    nginx_conf(self.port, self.replicas_port, &addresses),
                )
                .unwrap();
                let pid = self.process.id().expect("nginx runs until it is dropped").cast_signed();
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP).unwrap();
            }
            // It has been told all that there may ever be, and asks them whether they are there.
            Kind::Caddy => {}
        }
    }
}

/// A port that nobody has at the moment, nor will have: below those that connections going out are given.
fn free_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    std::iter::repeat_with(|| rand::random_range(20_000..32_000)).take(100).find(free).expect("some port is free")
}

/// A program that ends with us, however we end.
fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", name]);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
    command
}

/// A file of `deploy/` with these texts, all of which it must have, replaced.
fn deployed(name: &str, texts: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in texts {
        assert!(text.contains(from), "deploy/{name} no longer has {from:?}: this test has to follow");
        text = text.replace(from, to);
    }
    text
}

fn haproxy(folder: &Path, port: u16, replicas: u16, names: SocketAddr) -> Command {
    let text = deployed(
        "haproxy.cfg",
        &[
            ("*:${PORT}", format!("127.0.0.1:{port}")),
            ("*:8405", format!("127.0.0.1:{}", free_port())),
            ("parse-resolv-conf", format!("nameserver test {names}")),
            ("mana-sync:3050", format!("mana-sync:{replicas}")),
            // As many files as any machine lets us open.
            ("maxconn 50000", "maxconn 4000".to_owned()),
        ],
    );
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, text).unwrap();
    let mut command = program("haproxy");
    command.arg("-db").arg("-f").arg(path);
    command
}

fn nginx_conf(port: u16, replicas: u16, addresses: &[Ipv4Addr]) -> String {
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
            ("listen 3050;", format!("listen 127.0.0.1:{port};")),
            ("pid /tmp/nginx.pid;", "pid nginx.pid;".to_owned()),
            ("worker_rlimit_nofile 65536;", String::new()),
            ("worker_connections 32768;", "worker_connections 8192;".to_owned()),
        ],
    )
}

fn nginx(folder: &Path, port: u16, replicas: u16) -> Command {
    let path = folder.join("nginx.conf");
    std::fs::write(&path, nginx_conf(port, replicas, &[])).unwrap();
    let mut command = program("nginx");
    command.arg("-p").arg(folder).args(["-e", "stderr", "-g", "daemon off;", "-c"]).arg(path);
    command
}

fn caddy(port: u16, replicas: u16, candidates: &[Ipv4Addr]) -> Command {
    let all: Vec<String> = candidates.iter().map(|address| format!("{address}:{replicas}")).collect();
    // Where `make check-ops` has put it, if it is not on the path.
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ops-tools/venv/bin");
    let mut command = program("caddy");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:{}", fetched.display()));
    command.env("PORT", port.to_string()).env("REPLICAS", all.join(" "));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/Caddyfile");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command
}
