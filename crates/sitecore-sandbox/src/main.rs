//! Runs the sandbox as a program, for clients in any language. See `--help`.

use std::{
    ffi::{OsStr, OsString},
    io,
    process::ExitCode,
    time::Duration,
};

use lexopt::prelude::*;
use sitecore_sandbox::{Api, Fault, Sandbox, parse_duration};
use tokio::process::Command;

const HELP: &str = "\
A fake Sitecore Cloud on loopback: the token issuer, Authoring, Deploy and Experience Edge.

Usage: sitecore-sandbox [OPTIONS] [-- COMMAND [ARGUMENT]...]

Without a command, it prints the environment variables to export and runs until it is stopped. With a
command, it runs the command with the variables set, and exits with the command's exit code (1 if a signal ended it).

Options:
  --port BASE            Listen on BASE (issuer), BASE+1 (Authoring), BASE+2 (Deploy) and BASE+3 (Edge).
                         By default, the system chooses ports.
  --token-lifetime TIME  How long tokens last, such as 4s, 15m or 24h; 24h by default.
  --fault API:FAULT[xN]  Applies a fault to the next N calls of an API (1 by default), or with `x*` to all calls
                         after the other faults. May be repeated. APIs: token, authoring, deploy, edge. Faults: a
                         status such as 503, garbage, hang, cut, delay=2s, drip=10ms. Example: --fault token:503x2
  -h, --help             Print this help.

SITECORE_AUTH_CLIENT_ID is an organization automation client, SITECORE_ENVIRONMENT_CLIENT_ID an environment
automation client, and SITECORE_EDGE_CLIENT_ID an Edge administration client.

Over HTTP, at SITECORE_AUTH_AUTHORITY, with JSON:
  GET /_sandbox                     Returns the counts of calls.
  POST /_sandbox/faults             Adds a fault: {\"api\":\"token\",\"fault\":\"503\",\"times\":2}; for all calls
                                    if `times` is null.
  DELETE /_sandbox/faults           Removes the lasting and the queued faults of all APIs.
  POST /_sandbox/revoke-tokens, /_sandbox/revoke-edge-keys, /_sandbox/rotate-keys
  PUT /_sandbox/token-lifetime      Sets the lifetime of new tokens: {\"lifetime\":\"4s\"}.
";

/// The exit code of a program that was ended by SIGTERM.
const TERMINATED: u8 = 128 + 15;

/// What the command line says.
#[derive(Default)]
struct Options {
    help: bool,
    port: Option<u16>,
    token_lifetime: Option<Duration>,
    faults: Vec<(Api, Fault, Option<usize>)>,
    command: Vec<OsString>,
}

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    match parse(lexopt::Parser::from_env()) {
        Ok(options) => run(options).await.unwrap_or_else(|error| {
            eprintln!("sitecore-sandbox: {error}");
            ExitCode::FAILURE
        }),
        Err(error) => {
            eprintln!("sitecore-sandbox: {error}; see --help");
            ExitCode::from(2)
        }
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Options, Error> {
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => options.help = true,
            Long("port") => options.port = Some(port(&parser.value()?)?),
            Long("token-lifetime") => options.token_lifetime = Some(lifetime(&parser.value()?)?),
            Long("fault") => options.faults.push(fault(&parser.value()?.string()?)?),
            // What follows `--` is the command, with its own options.
            Value(program) => {
                options.command.push(program);
                options.command.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}

fn port(text: &OsStr) -> Result<u16, Error> {
    let port = text.to_str().and_then(|text| text.parse().ok());
    port.filter(|port| (1..=u16::MAX - 3).contains(port)).ok_or_else(|| {
        let text = text.display();
        format!(
            "invalid --port `{text}`: expected a number from 1 to 65532, the first of four ports"
        )
        .into()
    })
}

fn lifetime(text: &OsStr) -> Result<Duration, Error> {
    let lifetime = text.to_str().and_then(parse_duration);
    lifetime.ok_or_else(|| {
        format!(
            "invalid token lifetime `{}`: expected a time such as 4s, 15m or 24h",
            text.display()
        )
        .into()
    })
}

/// Parses `token:503x2`.
fn fault(text: &str) -> Result<(Api, Fault, Option<usize>), Error> {
    let (api, fault) = text.split_once(':').ok_or_else(|| {
        format!("invalid fault `{text}`: expected an API and a fault, such as token:503x2")
    })?;
    let api = Api::named(api)
        .ok_or_else(|| format!("invalid API `{api}`: expected token, authoring, deploy or edge"))?;
    let (fault, times) = match fault.rsplit_once('x') {
        Some((fault, "*")) => (fault, None),
        Some((fault, times)) if times.parse::<usize>().is_ok() => (fault, times.parse().ok()),
        _ => (fault, Some(1)),
    };
    Ok((api, fault.parse()?, times))
}

async fn run(options: Options) -> Result<ExitCode, Error> {
    if options.help {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut builder = Sandbox::builder();
    if let Some(port) = options.port {
        builder = builder.port(port);
    }
    if let Some(lifetime) = options.token_lifetime {
        builder = builder.token_lifetime(lifetime);
    }
    let sandbox = builder.start().await?;
    for (api, fault, times) in options.faults {
        match times {
            Some(times) => sandbox.script(api, std::iter::repeat_n(fault, times)),
            None => sandbox.break_down(api, fault),
        }
    }
    if let Some((program, arguments)) = options.command.split_first() {
        let mut command = Command::new(program);
        command.args(arguments).envs(sandbox.variables()).kill_on_drop(true);
        // A signal from the terminal reaches the command too, which then decides what to do.
        let ignore_interrupts = async {
            while tokio::signal::ctrl_c().await.is_ok() {}
            std::future::pending::<io::Result<_>>().await
        };
        let status = tokio::select! {
            // In this order, so that signals are handled before the command starts.
            biased;
            () = terminated() => return Ok(ExitCode::from(TERMINATED)),
            status = ignore_interrupts => status,
            status = async { command.status().await } => status,
        };
        let status =
            status.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
    }
    println!("# Listening on loopback; all state is lost when this program exits. Export:");
    for (name, value) in sandbox.variables() {
        println!("export {name}='{value}'");
    }
    println!("# Running until stopped.");
    tokio::signal::ctrl_c().await?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for SIGTERM, such as from a CI runner.
async fn terminated() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut signal) = signal(SignalKind::terminate()) {
            signal.recv().await;
            return;
        }
    }
    std::future::pending::<()>().await;
}
