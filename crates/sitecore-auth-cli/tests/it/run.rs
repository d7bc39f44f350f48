//! `run`: a program with a proxy of its own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
};

use sitecore_sandbox::Api;

use crate::support::{Place, assert_fails, stderr, stdout};

fn run(place: &Place, script: &str) -> Output {
    place.run(Api::Deploy, &["run", "--", "sh", "-c", script])
}

#[test]
fn the_program_calls_the_apis_without_a_token() {
    let place = Place::new();
    let script = r#"curl --silent --fail -H "X-Sitecore-Auth-Key: $SITECORE_PROXY_KEY" "$SITECORE_PROXY_URL/deploy/api/projects/v1""#;
    let output = run(&place, script);
    assert!(stdout(&output).contains("acme-site"));
    assert_eq!(stderr(&output), "");
    let arguments = ["run", "--only", "deploy", "--log", "--", "sh", "-c"];
    let script = script.replace("/deploy/", "/");
    let output = place.run(Api::Deploy, &[&arguments[..], &[&script]].concat());
    assert!(stdout(&output).contains("acme-site"));
    assert!(stderr(&output).contains("GET deploy /api/projects/v1 200"), "{}", stderr(&output));
}

#[test]
fn the_exit_code_is_that_of_the_program() {
    let place = Place::new();
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
    {
        assert_eq!(run(&place, script).status.code(), Some(code), "{script}");
    }
    let start = |program: &str| place.run(Api::Deploy, &["run", "--", program]);
    assert_fails(&start("no-such-program"), 127, "cannot start no-such-program");
    place.write("not-executable", "text");
    assert_fails(&start("./not-executable"), 126, "cannot start ./not-executable");
    assert_fails(&place.run(Api::Deploy, &["run"]), 2, "COMMAND");
    // Without credentials, the program is not started.
    let output = place.bare(&["run", "--", "sh", "-c", "echo started"]).output().unwrap();
    assert_fails(&output, 3, "no credentials found");
}

#[test]
fn signals_reach_the_program() {
    let place = Place::new();
    for (signal, code) in [("-TERM", 41), ("-INT", 42), ("-HUP", 43), ("-USR1", 44)] {
        let script = "trap 'exit 41' TERM; trap 'exit 42' INT; trap 'exit 43' HUP; trap 'exit 44' USR1; echo ready; while :; do sleep 0.05; done";
        let mut child = place
            .command(Api::Deploy, &["run", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
    }
}
