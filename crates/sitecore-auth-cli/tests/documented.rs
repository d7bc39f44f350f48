//! The shell commands of docs/cli.md, run by bash against the sandbox.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path, process::Command};

use assert_cmd::cargo::cargo_bin;
use sitecore_sandbox::{Api, Client, Sandbox};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Returns the lines of all `sh` blocks, and those that a CI job runs.
fn documented() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| {
        let (kind, text) = block.split_once('\n').unwrap();
        let run = text.split_once("run: |\n").map(|(_, run)| run.to_owned());
        match kind {
            "sh" => text.lines().map(str::to_owned).collect::<Vec<_>>(),
            // One shell runs all lines of a job.
            "yaml" => vec![run.unwrap().lines().map(str::trim).collect::<Vec<_>>().join("\n")],
            _ => Vec::new(),
        }
    });
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn every_shell_command_of_the_documentation_works() {
    let runtime = Runtime::new().unwrap();
    let sandbox = runtime.block_on(Sandbox::start()).unwrap();
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    // Settings that are left out stay as they are.
    file("settings.json", "{}");
    file(
        "item.graphql",
        "query Q($path: String!, $depth: Int!) { item(where: { path: $path }) { children(first: $depth) { nodes { name } } } }",
    );
    let bash = |line: &str, client: &Client| {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", line])
            .current_dir(folder.path())
            .env_remove("XDG_CACHE_HOME")
            .env("HOME", folder.path())
            .env("PATH", format!("{}:{}", program_folder(), std::env::var("PATH").unwrap()))
            .envs(sandbox.variables())
            .env("SITECORE_AUTH_CLIENT_ID", client.id())
            .env("SITECORE_AUTH_CLIENT_SECRET", client.secret())
            .output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {} {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    };
    let deploy = sandbox.origin(Api::Deploy).as_str().trim_end_matches('/').to_owned();
    let (mut hash, mut count) = (String::new(), 0);
    for line in documented() {
        // What installs the program, or sets what is set here.
        if line.starts_with("cargo install") || line.starts_with("export ") {
            continue;
        }
        let line = line
            .replace("https://xmclouddeploy-api.sitecorecloud.io", &deploy)
            .replace("ENVIRONMENT_ID", "2zYj6uPbNq0sWq0Nc9rU1d")
            .replace("HASH", &hash);
        let is_for_edge = line.contains("check edge")
            || line.contains("edge:/")
            || (line.contains("edge-key") && !line.contains("edge-key get"));
        let client = match is_for_edge {
            true => sandbox.edge_administration(),
            false => sandbox.organization(),
        };
        let printed = bash(&line, client);
        if line.contains("edge-key list") {
            let last = printed.lines().last().unwrap();
            hash = last.split_whitespace().next().unwrap().to_owned();
        }
        count += 1;
    }
    assert!(count > 18, "only {count} commands were found");
}

fn program_folder() -> String {
    cargo_bin("sitecore-auth").parent().unwrap().display().to_string()
}
