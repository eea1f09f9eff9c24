//! Certificates, made by `openssl` the way people make them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The kind of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Version 3, with `localhost` as an alternative name.
    Named,
    /// As in PostgreSQL's manual: version 1, with `localhost` in its subject.
    Old,
    /// Version 3, for another host.
    ForAnother,
    Expired,
}

/// A certificate authority in a folder.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let done = command.current_dir(folder).args(arguments.split_whitespace()).output().expect("openssl is needed");
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

impl Authority {
    pub fn new() -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let ca = format!("req -x509 {NEW_KEY} -keyout ca.key -out ca.crt -subj /CN=Authority -days 30");
        openssl(folder.path(), &ca);
        Authority { folder }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The authority's own certificate.
    pub fn root(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// Issues a certificate with its key, as `<name>.crt` and `<name>.key`.
    pub fn issue(&self, name: &str, subject: &str, kind: Kind) -> (PathBuf, PathBuf) {
        let folder = self.folder.path();
        openssl(folder, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={subject}"));
        let host = match kind {
            Kind::Old => None,
            Kind::ForAnother => Some("db.example.org"),
            Kind::Named | Kind::Expired => Some(subject),
        };
        let days = if kind == Kind::Expired { -1 } else { 30 };
        let mut sign =
            format!("x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days {days}");
        if let Some(host) = host {
            std::fs::write(folder.join("extensions"), format!("subjectAltName=DNS:{host}\n")).unwrap();
            sign.push_str(" -extfile extensions");
        }
        openssl(folder, &sign);
        (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")))
    }

    /// Issues a certificate of version 3 with these extensions and this subject, signed by the authority with this
    /// name; `ca` is the default one.
    pub fn issue_with(&self, name: &str, subject: &str, extensions: &str, signer: &str) -> (PathBuf, PathBuf) {
        let folder = self.folder.path();
        openssl(folder, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj {subject}"));
        std::fs::write(folder.join("extensions"), extensions).unwrap();
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA {signer}.crt -CAkey {signer}.key -CAcreateserial -out {name}.crt -days 30 -extfile extensions"
            ),
        );
        (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")))
    }

    /// Adds another root authority with these extensions, valid for this many days.
    pub fn add_root(&self, name: &str, extensions: &str, days: i32) -> PathBuf {
        let folder = self.folder.path();
        openssl(folder, &format!("req {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        std::fs::write(folder.join("extensions"), extensions).unwrap();
        openssl(
            folder,
            &format!("x509 -req -in {name}.csr -signkey {name}.key -out {name}.crt -days {days} -extfile extensions"),
        );
        self.file(&format!("{name}.crt"))
    }

    /// Writes these certificates to one file.
    pub fn together(&self, name: &str, of: &[&str]) -> PathBuf {
        let texts: String = of.iter().map(|one| std::fs::read_to_string(self.file(one)).unwrap()).collect();
        std::fs::write(self.file(name), texts).unwrap();
        self.file(name)
    }

    /// Creates a self-signed certificate and its key.
    pub fn self_signed(&self) -> (PathBuf, PathBuf) {
        let sign = format!("req -x509 {NEW_KEY} -keyout self.key -out self.crt -subj /CN=localhost -days 30");
        openssl(self.folder.path(), &sign);
        (self.file("self.crt"), self.file("self.key"))
    }

    /// Issues a certificate for `localhost` from an intermediate authority, whose certificate is in the same file.
    pub fn issue_below(&self) -> (PathBuf, PathBuf) {
        let folder = self.folder.path();
        openssl(folder, &format!("req {NEW_KEY} -keyout below.key -out below.csr -subj /CN=Below"));
        std::fs::write(folder.join("extensions"), "basicConstraints=critical,CA:TRUE\n").unwrap();
        openssl(
            folder,
            "x509 -req -in below.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out below.crt -days 30 -extfile extensions",
        );
        openssl(folder, &format!("req {NEW_KEY} -keyout leaf.key -out leaf.csr -subj /CN=localhost"));
        openssl(folder, "x509 -req -in leaf.csr -CA below.crt -CAkey below.key -CAcreateserial -out leaf.crt -days 30");
        let chain = ["leaf.crt", "below.crt"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
        std::fs::write(folder.join("chain.crt"), chain.concat()).unwrap();
        (self.file("chain.crt"), self.file("leaf.key"))
    }
}
