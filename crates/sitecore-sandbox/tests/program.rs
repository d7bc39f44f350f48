//! The sandbox as a program: its options, and running a command with the variables set.

use std::process::{Command, Output};

fn sandbox(arguments: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sitecore-sandbox"));
    program.args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Python is there for the tests, and needs no packages for a request.
const REQUEST_A_TOKEN: &str = r#"
import json, os, sys, urllib.error, urllib.parse, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
form = urllib.parse.urlencode({
    "grant_type": "client_credentials", "client_id": os.environ["SITECORE_AUTH_CLIENT_ID"],
    "client_secret": os.environ["SITECORE_AUTH_CLIENT_SECRET"], "audience": os.environ["SITECORE_AUTH_AUDIENCE"],
}).encode()
authority = os.environ["SITECORE_AUTH_AUTHORITY"]
for attempt in range(3):
    try:
        print(json.load(opener.open(authority + "/oauth/token", form))["expires_in"])
    except urllib.error.HTTPError as error:
        print(error.code)
print(json.load(opener.open(authority + "/_sandbox"))["apis"]["token"]["calls"])
print(authority.rsplit(":")[-1])
sys.exit(7)
"#;

#[test]
fn a_command_gets_the_variables_the_faults_and_its_own_exit_code() {
    let options = ["--token-lifetime", "4s", "--fault", "token:503x2"];
    let command = ["--", "python3", "-c", REQUEST_A_TOKEN, "--port"];
    let output = sandbox(&[&options[..], &command].concat());
    let printed = text(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[..4], ["503", "503", "4", "3"], "{printed} {}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn a_lasting_fault_follows_the_counted_ones_in_any_order() {
    let options = ["--fault", "token:503x1", "--fault", "token:418x*"];
    let output = sandbox(&[&options[..], &["--", "python3", "-c", REQUEST_A_TOKEN]].concat());
    let printed = text(&output.stdout);
    assert_eq!(printed.lines().take(3).collect::<Vec<_>>(), ["503", "418", "418"], "{printed}");
}

#[cfg(unix)]
#[expect(clippy::disallowed_methods, reason = "the rule applies to the libraries only")]
#[test]
fn a_terminated_sandbox_ends_its_command_too() {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
        time::{Duration, Instant},
    };
    let mut program = Command::new(env!("CARGO_BIN_EXE_sitecore-sandbox"));
    let command = ["--", "sh", "-c", "echo started; exec sleep 60"];
    let mut program = program.args(command).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(program.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let sent = Command::new("kill").args(["-TERM", &program.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert_eq!(program.wait().unwrap().code(), Some(143));
    // Its end closes the pipe, which would otherwise stay open for a minute.
    let terminated = Instant::now();
    assert_eq!(output.read_line(&mut line).unwrap(), 0);
    assert!(terminated.elapsed() < Duration::from_secs(30), "the command went on");
}

#[test]
fn help_names_every_option() {
    let output = sandbox(&["--help"]);
    assert!(output.status.success());
    for option in ["--port", "--token-lifetime", "--fault", "-- COMMAND", "/_sandbox/faults"] {
        assert!(text(&output.stdout).contains(option), "{option}");
    }
}

#[test]
fn wrong_options_are_errors_that_say_what_is_expected() {
    for (arguments, expected) in [
        (&["--ports", "1"][..], "--ports"),
        (&["--port", "x"], "invalid --port `x`"),
        (&["--port", "0"], "from 1 to 65532"),
        (&["--port", "65533"], "from 1 to 65532"),
        (&["--token-lifetime", "soon"], "expected a time such as 4s"),
        (&["--token-lifetime", "0"], "expected a time such as 4s"),
        (&["--fault", "503"], "token:503x2"),
        (&["--fault", "mail:503"], "expected token, authoring, deploy or edge"),
        (&["--fault", "token:sometimes"], "delay=2s"),
    ] {
        let output = sandbox(arguments);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected) && message.contains("--help"), "{message}");
        assert!(output.stdout.is_empty());
    }
    let output = sandbox(&["--", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot run /no/such/program"));
}
