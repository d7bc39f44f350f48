//! `sitecore-auth`: tokens for Sitecore's APIs in scripts and CI jobs, and calls to these APIs.

mod api;
mod args;
mod commands;
mod config;
mod failure;
mod login;
mod terminal;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use crate::{
    args::{Arguments, Command},
    commands::{check, edge_key, graphql, inspect, request, schema, store, token},
    config::Config,
    failure::{Failure, Kind, Result},
};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let result = run(&arguments).await.and_then(|output| print(&output));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match arguments.command.is_json() {
                true => anstream::eprintln!("{}", failure.to_json()),
                false => anstream::eprintln!("sitecore-auth: {failure}"),
            }
            failure.exit_code()
        }
    }
}

/// Runs the command and returns what it prints on success. On failure, it prints nothing on stdout.
async fn run(arguments: &Arguments) -> Result<Vec<u8>> {
    let Arguments { common, command } = arguments;
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Arguments::command(), "sitecore-auth", &mut script);
        return Ok(script);
    }
    let config = Config::load(common.config.as_deref())?;
    let text = match command {
        Command::Token(options) => token::run(options, common, &config).await,
        Command::Inspect(options) => inspect::run(options, common, &config).await,
        Command::Check(options) => check::run(options, common, &config).await,
        Command::Graphql(options) => graphql::run(options, common, &config).await,
        Command::Request(options) => return request::run(options, common, &config).await,
        Command::EdgeKey(command) => edge_key::run(command, common, &config).await,
        Command::Schema(options) => schema::run(options, common, &config).await,
        Command::Store(command) => store::run(command, common, &config).await,
        Command::Completions { .. } => Ok(String::new()),
    }?;
    Ok(if text.is_empty() { Vec::new() } else { (text + "\n").into_bytes() })
}

fn print(output: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(output).and_then(|()| stdout.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            Err(Failure::new(Kind::Unexpected, format!("cannot write to stdout: {error}")))
        }
        Ok(()) => Ok(()),
    }
}

/// Prints the help, or one line that says what is wrong.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            let line = line.trim_start_matches("error: ");
            anstream::eprintln!("sitecore-auth: {line}; see sitecore-auth --help");
            ExitCode::from(Kind::Usage as u8)
        }
    }
}
