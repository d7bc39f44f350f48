//! The program with a sandbox.

use std::{
    fs,
    process::{Command, Output, Stdio},
    time::Duration,
};

use assert_cmd::cargo::CommandCargoExt as _;
use serde_json::Value;
use sitecore_sandbox::{Api, Client, Sandbox};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A sandbox, and a folder in which the program runs.
pub(crate) struct Place {
    pub(crate) sandbox: Sandbox,
    pub(crate) folder: TempDir,
    runtime: Runtime,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with_lifetime(Duration::from_secs(86_400))
    }

    pub(crate) fn with_lifetime(lifetime: Duration) -> Self {
        let runtime = Runtime::new().unwrap();
        let sandbox = Sandbox::builder().token_lifetime(lifetime).start();
        let sandbox = runtime.block_on(sandbox).unwrap();
        Self { sandbox, folder: TempDir::new().unwrap(), runtime }
    }

    /// Returns a runtime for servers of the test's own.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn client(&self, api: Api) -> &Client {
        match api {
            Api::Authoring => self.sandbox.environment(),
            Api::Edge => self.sandbox.edge_administration(),
            _ => self.sandbox.organization(),
        }
    }

    /// Returns the command with the credentials of the client that this API requires.
    pub(crate) fn command(&self, api: Api, arguments: &[&str]) -> Command {
        let mut command = self.bare(arguments);
        let client = self.client(api);
        command
            .env("SITECORE_AUTH_CLIENT_ID", client.id())
            .env("SITECORE_AUTH_CLIENT_SECRET", client.secret());
        command
    }

    /// Returns the command without credentials.
    pub(crate) fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("sitecore-auth").unwrap();
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .env("SITECORE_AUTH_AUTHORITY", self.sandbox.authority().as_str())
            .env("SITECORE_AUTH_AUDIENCE", self.sandbox.audience())
            .env("SITECORE_AUTHORING_URL", self.sandbox.authoring_url().as_str())
            .env("SITECORE_DEPLOY_URL", self.sandbox.origin(Api::Deploy).as_str())
            .env("SITECORE_EDGE_URL", self.sandbox.origin(Api::Edge).as_str())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, api: Api, arguments: &[&str]) -> Output {
        self.command(api, arguments).output().unwrap()
    }

    /// Returns what the command prints; it must succeed.
    pub(crate) fn stdout(&self, api: Api, arguments: &[&str]) -> String {
        stdout(&self.run(api, arguments))
    }

    pub(crate) fn json(&self, api: Api, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.stdout(api, arguments)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts that the command failed with this exit code, one sentence, and nothing on stdout.
#[track_caller]
pub(crate) fn assert_fails(output: &Output, code: i32, expected: &str) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(expected), "{message}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[expect(clippy::disallowed_methods, reason = "the rule applies to the libraries only")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
