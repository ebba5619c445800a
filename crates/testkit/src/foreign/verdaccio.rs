//! A third party's npm server on loopback.

use std::{fs, net::TcpListener, path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

use super::tool;
use crate::process::CommandOutput;

/// How long the server may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How often another port is tried when somebody took the one that was free.
const START_ATTEMPTS: usize = 5;

/// It has no uplinks, so it knows what was published to it and nothing else; anybody may publish.
const CONFIGURATION: &str = "\
storage: ./storage
uplinks: {}
web:
  enable: false
auth:
  htpasswd:
    file: ./htpasswd
    max_users: -1
packages:
  '**':
    access: $all
    publish: $anonymous
max_body_size: 50mb
log: { type: stdout, format: json, level: warn }
";

/// A running verdaccio; killed when dropped.
#[derive(Debug)]
pub struct Verdaccio {
    url: String,
    directory: TempDir,
    _child: Child,
}

// === impl Verdaccio ===

impl Verdaccio {
    /// Starts one that holds nothing.
    ///
    /// # Panics
    ///
    /// When it is not installed or does not start.
    pub async fn start() -> Self {
        let directory = TempDir::new().expect("a temporary directory can be made");
        fs::write(directory.path().join("config.yaml"), CONFIGURATION)
            .expect("a new directory can be written");
        let mut complaints = Vec::new();
        for _ in 0..START_ATTEMPTS {
            // It cannot say which port the system chose, so one is chosen for it; somebody else may be quicker.
            let port = free_port();
            match attempt(directory.path(), port).await {
                Ok(child) => {
                    return Self {
                        url: format!("http://127.0.0.1:{port}"),
                        directory,
                        _child: child,
                    };
                }
                Err(complaint) => complaints.push(complaint),
            }
        }
        panic!("verdaccio does not start:\n{}", complaints.join("\n"));
    }

    /// The registry's address, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Publishes a tarball with npm itself.
    ///
    /// # Panics
    ///
    /// When npm or the server refuses.
    pub async fn publish(&self, tarball: &Path) {
        // npm demands a token even where anybody may publish; this one means nothing.
        let authority = self.url.trim_start_matches("http:");
        let npmrc = self.directory.path().join("npmrc");
        fs::write(
            &npmrc,
            format!("registry={}/\n{authority}/:_authToken=anyone\n", self.url),
        )
        .expect("the directory can be written");
        let mut command = Command::new("npm");
        command.arg("publish").arg(tarball);
        command
            .args(["--ignore-scripts", "--no-provenance", "--userconfig"])
            .arg(&npmrc);
        // Whatever registry the machine is configured with must not be published to.
        command.arg(format!("--registry={}/", self.url));
        command.arg(format!("--@openfn:registry={}/", self.url));
        command
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        let _ = CommandOutput::of(command).await.success();
    }
}

async fn attempt(directory: &Path, port: u16) -> Result<Child, String> {
    let mut child = Command::new(tool("npm/node_modules/.bin/verdaccio"))
        .args(["--config", "config.yaml", "--listen"])
        .arg(format!("127.0.0.1:{port}"))
        .current_dir(directory)
        .env("HOME", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stdout = child.stdout.take().expect("stdout was piped");
    let mut seen = Vec::new();
    let listening = async {
        let mut chunk = [0; 4096];
        // The line that tells has no end until the next one comes, so lines cannot be waited for.
        while !String::from_utf8_lossy(&seen).contains("http address") {
            match stdout.read(&mut chunk).await {
                Ok(0) | Err(_) => return false,
                Ok(count) => seen.extend_from_slice(&chunk[..count]),
            }
        }
        true
    };
    if !timeout(START_DEADLINE, listening).await.unwrap_or(false) {
        return Err(String::from_utf8_lossy(&seen).into_owned());
    }
    // Read on, so that a full pipe never stops the server.
    tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
    Ok(child)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener
        .local_addr()
        .expect("a bound listener has an address")
        .port()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::{grpcurl, python, real_packages};

    #[tokio::test]
    async fn the_foreign_programs_are_there_and_a_real_package_can_be_published() {
        assert!(grpcurl(&["-version"]).await.status.success());
        let answer = python(
            "import grpc, sys; from grpc_reflection.v1alpha import reflection; print(sys.argv[1])",
            &["hello"],
        )
        .await;
        assert_eq!(answer.success(), "hello\n");

        let verdaccio = Verdaccio::start().await;
        for package in real_packages() {
            verdaccio.publish(&package).await;
        }
        let script = "import sys, json, urllib.request as r; print(len(json.load(r.urlopen(sys.argv[1]))['versions']))";
        let address = format!("{}/@openfn%2flanguage-http", verdaccio.url());
        assert_eq!(python(script, &[&address]).await.success(), "1\n");
    }
}
