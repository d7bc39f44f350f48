//! `run`: a program with a proxy of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use sitecore_sandbox::Api;
use tokio::time::Instant;

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
    // Without `--log` too, it says that each run makes a token request of its own.
    let mut without_store = place.command(Api::Deploy, &["run", "--deploy", "--", "true"]);
    let output = without_store.env("XDG_CACHE_HOME", "/proc").output().unwrap();
    assert!(stderr(&output).contains("tokens are not shared"), "{}", stderr(&output));
}

#[test]
fn the_program_gets_no_secret_and_no_proxy_of_the_network_gets_the_key() {
    let place = Place::new();
    place.write(
        "sitecore-auth.toml",
        "[credentials.a]\nclient_id = \"a\"\nsecret_variable = \"MY_SECRET\"\n",
    );
    let environment = |no_proxy: &str| {
        let mut command = place.command(Api::Deploy, &["run", "--deploy", "--", "env"]);
        command
            .env("MY_SECRET", "sentinel-0123456789-0123456789-01")
            .env("SITECORE_EDGE_CLIENT_SECRET", "sentinel-0123456789-0123456789-02")
            .env("SITECORE_EDGE_TOKEN", "sentinel")
            .env("no_proxy", no_proxy);
        stdout(&command.output().unwrap())
    };
    let seen = environment("a.example");
    assert!(!seen.contains("sentinel") && !seen.contains("SECRET"), "{seen}");
    assert!(seen.contains("no_proxy=a.example,127.0.0.1\n"), "{seen}");
    assert!(
        seen.contains("NO_PROXY=127.0.0.1\n") && seen.contains("SITECORE_PROXY_KEY="),
        "{seen}"
    );
}

#[test]
fn the_reason_why_calls_fail_is_shown_once() {
    let place = Place::new();
    let call = |url: &str| {
        format!(
            r#"curl --silent --output /dev/null -H "X-Sitecore-Auth-Key: $SITECORE_PROXY_KEY" "$SITECORE_PROXY_URL{url}""#
        )
    };
    let calls = |url: &str| format!("{0}\n{0}\n", call(url));
    let script = calls("/deploy/api/projects/v1");
    let mut refused = place.command(Api::Deploy, &["run", "--", "sh", "-c", &script]);
    let refused = refused.env("SITECORE_AUTH_CLIENT_SECRET", "w".repeat(32)).output().unwrap();
    let message = stderr(&refused);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("sitecore-auth: deploy: no token is available: "), "{message}");
    assert!(message.contains("refused client"), "{message}");
    // A client of the wrong kind. The call that the proxy itself refuses does not change that.
    let wrong = calls("/edge/api/admin/v1/settings");
    let guarded = call("/edge/api/admin/v1/content").replace("curl", "curl --request DELETE");
    let script = format!("{wrong}{guarded}\n{wrong}");
    let wrong = place.run(Api::Deploy, &["run", "--", "sh", "-c", &script]);
    let message = stderr(&wrong);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("edge: this API usually requires"), "{message}");
    // In a log, the reason follows the first call that it explains.
    let logged = place.run(Api::Deploy, &["run", "--log", "--", "sh", "-c", &script]);
    let message = stderr(&logged);
    assert_eq!(message.lines().count(), 6, "{message}");
    let quiet = place.run(Api::Deploy, &["run", "--quiet", "--", "sh", "-c", &script]);
    assert_eq!(stderr(&quiet), "");
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
    // Calls that the program has left behind do not delay its end.
    let fault = sitecore_sandbox::Fault::hang();
    place.sandbox.break_down(Api::Deploy, fault);
    let script = r#"curl --silent --max-time 60 -H "X-Sitecore-Auth-Key: $SITECORE_PROXY_KEY" "$SITECORE_PROXY_URL/deploy/api/projects/v1" >/dev/null & sleep 0.3; exit 3"#;
    let started = Instant::now();
    assert_eq!(run(&place, script).status.code(), Some(3));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    // Without credentials, the program is not started.
    let output = place.bare(&["run", "--", "sh", "-c", "echo started"]).output().unwrap();
    assert_fails(&output, 3, "no credentials found");
}

#[test]
fn signals_reach_the_program() {
    let place = Place::new();
    // What the test itself ignores, as in the background of a script, the program ignores too.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    let signals = [("-TERM", 15, 41), ("-INT", 2, 42), ("-HUP", 1, 43), ("-USR1", 10, 44)];
    for (signal, _, code) in signals.into_iter().filter(|it| ignored >> (it.1 - 1) & 1 == 0) {
        let script = "trap 'exit 41' TERM; trap 'exit 42' INT; trap 'exit 43' HUP; trap 'exit 44' USR1; echo ready; while :; do sleep 0.05; done";
        let mut child = place
            .command(Api::Deploy, &["run", "--", "sh", "-c", script])
            .stdout(Stdio::piped())
            // Otherwise the terminal in which the test runs would count.
            .process_group(0)
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

/// Returns the blocks of docs/proxy.md in this language.
fn documented(language: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/proxy.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks = page.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    blocks.map(str::to_owned).collect()
}

#[test]
fn the_documented_programs_and_commands_work() {
    let place = Place::new();
    place.write("migrate.py", &documented("python")[0]);
    let print = "console.log(await response.text());";
    place.write("publish.mjs", &format!("{}{print}", documented("js")[0]));
    let run =
        |api, program: &str, file: &str| stdout(&place.run(api, &["run", "--", program, file]));
    assert!(run(Api::Deploy, "python3", "migrate.py").contains("acme-site"));
    assert!(run(Api::Authoring, "node", "publish.mjs").contains("acme-campaigns"));

    let free_port = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    let program = place.command(Api::Deploy, &[]);
    let folder = Path::new(program.get_program()).parent().unwrap().to_owned();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    for block in documented("sh") {
        let script = block.replace("8080", &free_port()).replace("9901", &free_port());
        let mut bash = Command::new("bash");
        bash.args(["-euc", &format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}")]);
        for (name, value) in program.get_envs() {
            bash.env(name, value.unwrap());
        }
        let output = bash.env("PATH", &path).current_dir(place.folder.path()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", stderr(&output));
    }
    let ready = fs::read_to_string(place.folder.path().join("ready.json")).unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready["event"], "ready");
}
