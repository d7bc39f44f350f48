//! `sitecore-auth`: tokens for Sitecore's APIs in scripts and CI jobs, calls to these APIs, and a
//! local proxy for programs in any language.

mod api;
mod args;
mod commands;
mod config;
mod failure;
mod login;
mod proxy;
mod signals;
mod terminal;

use std::{env, io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use tokio::runtime::Runtime;

use crate::{
    args::{Arguments, Command, EdgeKey},
    commands::{check, edge_key, graphql, inspect, request, run, schema, store, token, wait},
    config::Config,
    failure::{Failure, Kind, Result},
    terminal::{error_line, print},
};

fn main() -> ExitCode {
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    // With JSON, standard error contains one object and no notes.
    arguments.common.quiet |= arguments.command.is_json();
    let result = start(&arguments);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => report(&failure, arguments.command.is_json()),
    }
}

/// Returns the exit code.
fn start(arguments: &Arguments) -> Result<u8> {
    let runtime = Runtime::new()?;
    let output = runtime.block_on(execute(arguments));
    // A name lookup that hangs must not delay the exit.
    runtime.shutdown_background();
    let Output { text, code } = output?;
    let printed = print(&text);
    match &arguments.command {
        // It is not shown again.
        Command::EdgeKey { command: EdgeKey::Create { label }, .. } => {
            printed.map_err(|error| {
                let message = format!("cannot print the key: {error}");
                Failure::new(Kind::Unexpected, message)
                    .hint(format!("revoke it: look for the label {label} in `edge-key list`"))
            })?;
        }
        _ => match printed {
            // The reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => {
                let message = format!("cannot write to stdout: {error}");
                return Err(Failure::new(Kind::Unexpected, message));
            }
            Ok(()) => {}
        },
    }
    Ok(code)
}

/// What a command prints on success, and its exit code.
struct Output {
    text: Vec<u8>,
    code: u8,
}

impl From<Vec<u8>> for Output {
    fn from(text: Vec<u8>) -> Self {
        Self { text, code: 0 }
    }
}

/// Runs the command. On failure, it prints nothing on stdout.
async fn execute(arguments: &Arguments) -> Result<Output> {
    let Arguments { common, command } = arguments;
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Arguments::command(), "sitecore-auth", &mut script);
        return Ok(script.into());
    }
    let config = Config::load(common.config.as_deref())?;
    let text = match command {
        Command::Token(options) => token::run(options, common, &config).await,
        Command::Inspect(options) => inspect::run(options, common, &config).await,
        Command::Check(options) => check::run(options, common, &config).await,
        Command::Graphql(options) => graphql::run(options, common, &config).await,
        Command::Request(options) => {
            return request::run(options, common, &config).await.map(Output::from);
        }
        Command::EdgeKey { command, output } => {
            edge_key::run(command, output.format, common, &config).await
        }
        Command::Schema(options) => schema::run(options, common, &config).await,
        Command::Store { command, output } => {
            store::run(command, output.format, common, &config).await
        }
        Command::Run(options) => {
            let code = run::run(options, common, &config).await?;
            return Ok(Output { text: Vec::new(), code });
        }
        Command::Proxy(options) => {
            // It prints when it is ready.
            commands::proxy::run(options, common, &config).await.map(|()| String::new())
        }
        Command::Wait(options) => wait::run(options, common).await.map(|()| String::new()),
        Command::Completions { .. } => Ok(String::new()),
    }?;
    Ok(if text.is_empty() { Vec::new() } else { (text + "\n").into_bytes() }.into())
}

fn report(failure: &Failure, is_json: bool) -> ExitCode {
    match is_json {
        true => error_line(&failure.to_json()),
        false => error_line(&format!("sitecore-auth: {failure}")),
    }
    failure.exit_code()
}

/// Returns the program's name with the command that was given, if there is such a command. The
/// value of an option may be mistaken for a command; then the help of that command is named.
fn command_path() -> String {
    let commands = Arguments::command();
    let mut given = env::args_os().skip(1).filter_map(|argument| argument.into_string().ok());
    let given = given.find(|argument| commands.find_subcommand(argument).is_some());
    given.map_or_else(|| "sitecore-auth".to_owned(), |name| format!("sitecore-auth {name}"))
}

/// Prints the help, or one line that says what is wrong.
fn usage(error: &clap::Error) -> ExitCode {
    let message = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "a command is missing".to_owned()
        }
        _ => {
            let text = error.render().to_string();
            let is_end = |line: &&str| {
                line.starts_with("Usage:") || line.starts_with("For more information")
            };
            let lines = text.lines().take_while(|line| !is_end(line));
            let words = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
            words.trim_start_matches("error: ").to_owned()
        }
    };
    let mut arguments = env::args_os();
    let is_json = arguments.any(|argument| argument == "--format=json")
        || env::args_os().zip(env::args_os().skip(1)).any(|(a, b)| a == "--format" && b == "json");
    report(&Failure::usage(message).hint(format!("see {} --help", command_path())), is_json)
}
