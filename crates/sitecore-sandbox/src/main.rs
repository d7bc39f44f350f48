//! Runs the sandbox as a program, for clients in any language. It prints the environment variables
//! to export and runs until it is stopped.
//!
//! `cargo run -p sitecore-sandbox [token lifetime in seconds]`

use std::{io, process::ExitCode, time::Duration};

use sitecore_sandbox::{Api, Sandbox};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sitecore-sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> io::Result<()> {
    let mut sandbox = Sandbox::builder();
    let mut arguments = std::env::args().skip(1);
    let lifetime = arguments.next();
    if arguments.next().is_some() || lifetime.as_deref() == Some("--help") {
        return Err(io::Error::other("usage: sitecore-sandbox [token lifetime in seconds]"));
    }
    if let Some(lifetime) = lifetime {
        let seconds = lifetime.parse().ok().filter(|seconds| *seconds > 0);
        let seconds = seconds.ok_or_else(|| {
            io::Error::other(format!(
                "invalid token lifetime `{lifetime}`: expected a positive whole number of seconds, such as 60"
            ))
        })?;
        sandbox = sandbox.token_lifetime(Duration::from_secs(seconds));
    }
    let sandbox = sandbox.start().await?;
    println!("# Listening on loopback; all state is lost when this program exits. Export:");
    let clients = [
        ("SITECORE_AUTH", sandbox.organization()),
        ("SITECORE_ENVIRONMENT", sandbox.environment()),
        ("SITECORE_EDGE", sandbox.edge_administration()),
    ];
    for (prefix, client) in clients {
        println!(
            "export {prefix}_CLIENT_ID='{}' {prefix}_CLIENT_SECRET='{}'",
            client.id(),
            client.secret()
        );
    }
    println!(
        "export SITECORE_AUTH_AUTHORITY='{}'",
        sandbox.authority().as_str().trim_end_matches('/')
    );
    println!("export SITECORE_AUTH_AUDIENCE='{}'", sandbox.audience());
    println!("export SITECORE_AUTHORING_URL='{}'", sandbox.authoring_url());
    println!(
        "export SITECORE_DEPLOY_URL='{}'",
        sandbox.origin(Api::Deploy).as_str().trim_end_matches('/')
    );
    println!(
        "export SITECORE_EDGE_URL='{}'",
        sandbox.origin(Api::Edge).as_str().trim_end_matches('/')
    );
    println!("# Running until stopped.");
    tokio::signal::ctrl_c().await
}
