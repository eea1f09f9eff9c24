//! PostgreSQL servers that accept some connections and refuse others.

use super::support::eventually;
use mana_dev::TemporaryPostgres;
use mana_dev::place::Account;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Access by user name: only with TLS, only without it, with a password, with a client certificate; any other user as
/// it likes.
const WHO: &str = "local all all trust
hostssl all tls all trust
host all tls all reject
hostnossl all plain all trust
host all plain all reject
host all word all scram-sha-256
hostssl all cert all cert
host all cert all reject
host all all all trust
";

/// The password of the user `word`.
pub const PASSWORD: &str = "p@ss/w:rd?#%& \u{fc}";

pub struct Server {
    postgres: TemporaryPostgres,
    /// The folder of its Unix socket.
    pub folder: PathBuf,
    /// The name of its abstract socket, beginning with `@`.
    pub abstracted: String,
    _files: tempfile::TempDir,
}

impl Server {
    /// Starts a server without TLS.
    pub async fn plain() -> Server {
        Server::start(vec![], &[]).await
    }

    /// Starts a server with this certificate, which asks clients for theirs.
    pub async fn with_tls((certificate, key): (PathBuf, PathBuf), clients: Option<&Path>) -> Server {
        let mut files = vec![("server.crt", certificate), ("server.key", key)];
        files.extend(clients.map(|clients| ("clients.crt", clients.to_owned())));
        Server::start(vec![("ssl", "on".to_owned())], &files).await
    }

    /// Starts a server with these settings, and these files as its own.
    async fn start(settings: Vec<(&str, String)>, files: &[(&str, PathBuf)]) -> Server {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for (name, from) in files {
            std::fs::copy(from, file(name)).unwrap();
            std::fs::set_permissions(file(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::fs::write(file("who"), WHO).unwrap();
        std::fs::create_dir(file("socket")).unwrap();
        if let Some(account) = Account::for_postgres().unwrap() {
            account.own(folder.path()).unwrap();
        }
        let mut all = settings;
        all.push(("hba_file", file("who")));
        let abstracted = format!("@{}", folder.path().file_name().unwrap().display());
        all.push(("unix_socket_directories", format!("{},{abstracted}", file("socket"))));
        all.push(("listen_addresses", "127.0.0.1,::1".to_owned()));
        for (name, setting) in
            [("server.crt", "ssl_cert_file"), ("server.key", "ssl_key_file"), ("clients.crt", "ssl_ca_file")]
        {
            if files.iter().any(|(given, _)| *given == name) {
                all.push((setting, file(name)));
            }
        }
        let all = all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let postgres = TemporaryPostgres::start(Path::new(".dev"), all).await.unwrap();
        let server = Server { postgres, folder: folder.path().join("socket"), abstracted, _files: folder };
        let users = "create role tls login; create role plain login; create role cert login; create role \"any\" login;
                     create role \"us er\" login; create role word login";
        server.run(users).await;
        server.run(&format!("alter role word password '{PASSWORD}'")).await;
        server
    }

    /// Runs statements as its owner.
    pub async fn run(&self, statements: &str) {
        self.run_with(async |client| client.batch_execute(statements).await.unwrap()).await;
    }

    async fn run_with<T>(&self, run: impl AsyncFnOnce(&tokio_postgres::Client) -> T) -> T {
        let (client, driver) = tokio_postgres::connect(&self.admin_url(), tokio_postgres::NoTls).await.unwrap();
        let driving = tokio::spawn(driver);
        let done = run(&client).await;
        drop(client);
        driving.await.unwrap().unwrap();
        done
    }

    /// Uses this certificate for new connections from now on.
    pub async fn show(&self, (certificate, key): &(PathBuf, PathBuf)) {
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = self._files.path().join(name);
            std::fs::copy(from, &to).unwrap();
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        self.reload().await;
    }

    /// Has it read its settings and its certificate again.
    pub async fn reload(&self) {
        let read = async || {
            let read = "select extract(epoch from pg_conf_load_time())::float8";
            self.run_with(async |client| client.query_one(read, &[]).await.unwrap().get::<_, f64>(0)).await
        };
        let before = read().await;
        self.run("select pg_reload_conf()").await;
        // Connections opened after that have the current settings and certificate.
        eventually("the settings are read again", async || read().await > before).await;
    }

    pub fn port(&self) -> u16 {
        self.postgres.server().port()
    }

    pub fn admin_url(&self) -> String {
        self.postgres.server().admin_url()
    }

    /// The URL for this user at this host, with these parameters.
    pub fn url(&self, user: &str, host: &str, parameters: &str) -> String {
        format!("postgres://{user}@{host}:{}/postgres?{parameters}", self.port())
    }
}
