//! Each command, format and exit code, against the sandbox.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use graphql_client_codegen::{
    CodegenMode, GraphQLClientCodegenOptions, generate_module_token_stream,
};
use serde_json::{Value, json};
use sitecore_sandbox::{Api, Fault};

use crate::support::{Place, assert_fails, pause, stderr, stdout};

#[test]
fn a_token_is_printed_in_each_format() {
    let place = Place::new();
    let token = place.stdout(Api::Deploy, &["token"]);
    let token = token.trim_end();
    assert_eq!(token.matches('.').count(), 2);
    let header = place.stdout(Api::Deploy, &["token", "--format", "header"]);
    assert_eq!(header, format!("Authorization: Bearer {token}\n"));

    let object = place.json(Api::Deploy, &["token", "--format", "json"]);
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "access_token",
            "client_kind",
            "expires_at",
            "expires_in",
            "expires_on",
            "fingerprint",
            "scope",
            "token_type",
            "version",
        ]
    );
    assert_eq!((&object["version"], &object["access_token"]), (&1.into(), &token.into()));
    assert_eq!(object["client_kind"], "organization");
    let expires_at = object["expires_at"].as_str().unwrap();
    assert!(expires_at.ends_with('Z') && expires_at.len() == 20, "{expires_at}");
    let expires_in = object["expires_in"].as_u64().unwrap();
    assert!((86_300..=86_400).contains(&expires_in), "{expires_in}");

    // A shell evaluates the assignments, and a program that it starts sees them.
    let script = r#"eval "$("$0" token --format env)" && env"#;
    let shell = place.command(Api::Deploy, &[]);
    let program = shell.get_program().to_owned();
    let environment: Vec<_> = shell
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()))
        .collect();
    let shell =
        Command::new("sh").args(["-c", script]).arg(program).env_clear().envs(environment).output();
    let seen = stdout(&shell.unwrap());
    assert!(seen.contains(&format!("SITECORE_ACCESS_TOKEN={token}\n")));
    assert!(seen.contains(&format!("SITECORE_ACCESS_TOKEN_EXPIRES_AT={expires_at}\n")));
    let powershell = place.stdout(Api::Deploy, &["token", "--format", "powershell"]);
    assert!(powershell.starts_with(&format!("$env:SITECORE_ACCESS_TOKEN = '{token}'\n")));
    assert_eq!(place.sandbox.tokens_granted(), 1);
}

#[test]
fn a_hundred_invocations_at_once_cost_one_token_request() {
    let place = Place::new();
    place.sandbox.script(Api::Token, [Fault::delay(Duration::from_secs(4))]);
    let start = || place.command(Api::Deploy, &["token"]).stdout(Stdio::piped()).spawn().unwrap();
    let started: Vec<_> = (0..100).map(|_| start()).collect();
    for invocation in started {
        assert!(invocation.wait_with_output().unwrap().status.success());
    }
    assert_eq!(place.sandbox.tokens_granted(), 1);
    // With the issuer down, later invocations have a token too.
    place.sandbox.break_down(Api::Token, Fault::status(503));
    place.stdout(Api::Deploy, &["token"]);
    assert_fails(&place.run(Api::Deploy, &["token", "--no-store"]), 5, "503");
}

#[test]
fn a_token_has_enough_time_left_and_can_be_forced_to_be_new() {
    let place = Place::with_lifetime(Duration::from_secs(4));
    let first = place.stdout(Api::Deploy, &["token"]);
    pause(Duration::from_millis(2_300));
    // Less than half of the lifetime is left.
    assert_ne!(place.stdout(Api::Deploy, &["token"]), first);
    let output = place.run(Api::Deploy, &["token", "--min-validity", "5m"]);
    assert_fails(&output, 2, "at most");
    let output = place.run(Api::Deploy, &["token", "--force", "--min-validity", "5m"]);
    assert_fails(&output, 2, "the new token has only");

    let place = Place::new();
    let first = place.stdout(Api::Deploy, &["token"]);
    assert_eq!(place.stdout(Api::Deploy, &["token", "--min-validity", "20h"]), first);
    // As often as the user asks for it.
    for forced in 2..10 {
        assert_ne!(place.stdout(Api::Deploy, &["token", "--force"]), first);
        assert_eq!(place.sandbox.tokens_granted(), forced);
    }
    let newest = place.stdout(Api::Deploy, &["token", "--force"]);
    assert_eq!(place.stdout(Api::Deploy, &["token"]), newest);
    // If the issuer is down, the present token stays.
    place.sandbox.break_down(Api::Token, Fault::status(503));
    assert_fails(&place.run(Api::Deploy, &["token", "--force"]), 5, "503");
    assert_eq!(place.stdout(Api::Deploy, &["token"]), newest);
    place.sandbox.heal(Api::Token);
    // Without a usable store, it is new all the same, and the program says so.
    let mut without_store = place.command(Api::Deploy, &["token", "--force"]);
    let output = without_store.env("XDG_CACHE_HOME", "/proc").output().unwrap();
    assert!(stdout(&output).starts_with("eyJ"));
    assert!(stderr(&output).contains("tokens are not shared"), "{}", stderr(&output));
}

#[test]
fn advice_is_for_shells_and_not_for_rust_programs() {
    let place = Place::new();
    let mut store = place.command(Api::Deploy, &["store", "status"]);
    let output = store.env("XDG_CACHE_HOME", "/proc").output().unwrap();
    assert_fails(&output, 3, "set XDG_CACHE_HOME to a folder that you own");
    assert_eq!(stderr(&output).matches("XDG_CACHE_HOME").count(), 1, "{}", stderr(&output));
    assert!(!stderr(&output).contains("FileStore"), "{}", stderr(&output));
    for host in
        ["http://cm.example:8080", "https://cm.example/gateway/sitecore/", "ftp://cm.example"]
    {
        let output = place.run(Api::Authoring, &["graphql", "--host", host, "{ a }"]);
        assert_fails(&output, 2, "https");
        assert!(!stderr(&output).contains("Target::"), "{}", stderr(&output));
    }
}

#[test]
fn inspect_shows_what_the_token_belongs_to_but_not_the_token() {
    let place = Place::new();
    let token = place.stdout(Api::Deploy, &["token"]);
    let text = place.stdout(Api::Deploy, &["inspect"]);
    for expected in ["an organization automation client", "acme", "SITECORE_AUTH_CLIENT_ID", "23 h"]
    {
        assert!(text.contains(expected), "{text}");
    }
    let object = place.json(Api::Authoring, &["inspect", "--format", "json"]);
    assert_eq!((&object["client_kind"], &object["version"]), (&"environment".into(), &1.into()));
    assert!(object["tenant_id"].is_string() && object["expires_on"].is_u64(), "{object}");
    assert!(!text.contains(token.trim_end()) && !object.to_string().contains("eyJ"));
}

#[test]
fn check_says_for_each_api_what_is_wrong() {
    let place = Place::new();
    let text = place.stdout(Api::Deploy, &["check", "deploy", "authoring"]);
    assert_eq!(text.matches("fine").count(), 2, "{text}");
    let output = place.run(Api::Deploy, &["check", "edge"]);
    assert_fails(&output, 6, "usually requires an Edge administration client");
    let unknown =
        place.command(Api::Authoring, &["check"]).env_remove("SITECORE_AUTHORING_URL").output();
    assert_fails(&unknown.unwrap(), 2, "there is nothing to check");
    // Without arguments, those that the credentials are for.
    let text = place.stdout(Api::Deploy, &["check"]);
    assert!(text.contains("deploy") && text.contains("authoring") && !text.contains("edge"));
    assert!(text.contains("SITECORE_AUTH_CLIENT_ID"), "{text}");
    let text = place.stdout(Api::Edge, &["check"]);
    assert!(text.starts_with("edge") && text.lines().count() == 1, "{text}");
    let calls = place.sandbox.calls(Api::Token);
    place.stdout(Api::Deploy, &["check", "deploy", "authoring", "--no-store"]);
    assert_eq!(place.sandbox.calls(Api::Token) - calls, 1, "one token request per client");
    place.sandbox.script(Api::Authoring, [Fault::garbage()]);
    let page = Fault::status(200).header("content-type", "text/html");
    place.sandbox.script(Api::Deploy, [page]);
    let output = place.run(Api::Deploy, &["check", "authoring", "deploy", "--format", "json"]);
    assert_eq!(output.status.code(), Some(6));
    let report: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(report["error"]["kind"], "api");
    let checks = report["details"]["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 2);
    assert!(checks.iter().all(|check| check["result"] == "failed"), "{report}");
    assert!(checks[1]["message"].as_str().unwrap().contains("web page"), "{report}");
    // The issuer is down.
    place.sandbox.break_down(Api::Token, Fault::status(503));
    assert_fails(&place.run(Api::Edge, &["check", "edge", "--no-store"]), 6, "503");
}

#[test]
fn graphql_prints_data_or_fails_with_the_errors() {
    let place = Place::new();
    let query = "query Q($path: String!) { item(where: { path: $path }) { name } } query R { sites { name } }";
    let graphql =
        |arguments: &[&str]| place.json(Api::Authoring, &[&["graphql"], arguments].concat());
    let variables = ["--operation", "Q", "--var", "path=/sitecore/content"];
    let data = graphql(&[&[query], &variables[..]].concat());
    assert_eq!(data["item"]["name"], "content");
    place.write("query.graphql", &format!("\u{feff}{query}\r\n"));
    let data = graphql(&["--file", "query.graphql", "--operation", "R"]);
    assert!(data["sites"].is_array());
    // The JSON form of a variable, and the Delivery API.
    let typed = ["--operation", "Q", "--var", r#"path:="/sitecore""#];
    assert_eq!(graphql(&[&[query], &typed[..]].concat())["item"]["name"], "sitecore");
    let delivery = place
        .bare(&["graphql", "--delivery", "{ __typename }"])
        .env("SITECORE_EDGE_TOKEN", place.sandbox.edge_key())
        .output();
    assert!(stdout(&delivery.unwrap()).contains("Query"));

    for (arguments, code, expected) in [
        (&["graphql", "{ nothing }"][..], 6, "nothing"),
        (&["graphql", "{ sites"], 6, ""),
        (&["graphql", " "], 2, "the query is empty"),
        (&["graphql", "--file", "missing.graphql"], 2, "cannot read missing.graphql"),
        (&["graphql", "{ x }", "--var", "path"], 2, "expected name=text or name:=json"),
        (&["graphql", "{ x }", "--var", "path:={"], 2, "not JSON"),
        (&["graphql", "{ x }", "--host", "a b"], 2, "not a host or a URL"),
        (&["graphql", "{ x }", "--host", "user@host"], 2, "it contains a user name"),
    ] {
        assert_fails(&place.run(Api::Authoring, arguments), code, expected);
    }
    for (status, body, code, expected) in [
        (500, r#"{"message":"Internal server error"}"#, 5, "Internal server error"),
        (500, "oops", 5, "oops"),
        (400, r#"{"title":"Bad Request","detail":"too long"}"#, 6, "too long"),
        (400, r#"{"errors":[{"message":"no such field"}]}"#, 6, "no such field"),
        // An array is not a response, although it may contain one.
        (200, r#"[{"errors":[{"message":"no"}]}]"#, 6, "not a GraphQL response"),
        (200, r#"[{"data":{"sites":[]}},null]"#, 6, "not a GraphQL response"),
    ] {
        let fault = Fault::status(status).header("content-type", "application/json").body(body);
        place.sandbox.script(Api::Authoring, [fault]);
        let output = place.run(Api::Authoring, &["graphql", "{ sites { name } }"]);
        assert_fails(&output, code, expected);
    }
}

#[test]
fn request_makes_authenticated_calls() {
    let place = Place::new();
    let projects = place.json(Api::Deploy, &["request", "get", "deploy:/api/projects/v1"]);
    assert_eq!(projects[0]["name"], "acme-site");
    let url = place.sandbox.url(Api::Deploy, "/api/projects/v1");
    assert_eq!(place.json(Api::Deploy, &["request", "GET", url.as_ref()]), projects);
    let included = place.stdout(Api::Deploy, &["request", "GET", url.as_ref(), "--include"]);
    assert!(included.starts_with("HTTP/1.1 200 OK\n") && included.contains("content-type: "));
    // Several pages become one array.
    let list = "deploy:/api/environments/v1?pageSize=1";
    let all = place.json(Api::Deploy, &["request", "GET", list, "--paginate"]);
    assert!(all.as_array().unwrap().len() > 1, "{all}");
    for label in ["a", "b", "c"] {
        place.stdout(Api::Edge, &["edge-key", "create", label]);
    }
    let list = "edge:/api/apikey/v1?pagesize=2";
    let keys = place.json(Api::Edge, &["request", "GET", list, "--paginate"]);
    assert_eq!(keys.as_array().unwrap().len(), 3, "{keys}");
    // An empty page is the last one, whatever the API says.
    let empty = Fault::status(200).body(r#"{"data":[],"totalCount":9,"hasNext":true}"#);
    place.sandbox.script(Api::Edge, [empty.header("content-type", "application/json")]);
    let keys = place.json(Api::Edge, &["request", "GET", list, "--paginate"]);
    assert_eq!(keys.as_array().unwrap().len(), 0, "{keys}");
    // Nothing is followed or sent with a credential of the user's own.
    let origin = place.sandbox.origin(Api::Deploy);
    let (authority, other) = (origin.authority(), place.sandbox.origin(Api::Edge).authority());
    for url in [
        format!("deploy://{other}/api/x"),
        format!("deploy:/\\{other}/api/x"),
        format!("http://user:password@{authority}/api/projects/v1"),
        format!("http://{authority}@{other}/api/projects/v1"),
        "deploy:/api/projects/v1?sc_apikey=key".to_owned(),
        "deploy:/api/projects/v1?sitecoreContextId=id".to_owned(),
    ] {
        let output = place.run(Api::Deploy, &["request", "GET", &url]);
        assert_eq!(output.status.code(), Some(2), "{url}: {}", stderr(&output));
    }
    for header in [
        "Host: x",
        "Content-Length: 1",
        "Cookie: x",
        "sc_apikey: x",
        "X-GQL-Token: x",
        "x-sitecore-contextid: x",
    ] {
        let output = place.run(Api::Deploy, &["request", "GET", "deploy:/api/x", "-H", header]);
        assert_fails(&output, 2, "this header is set for you");
    }
    place.write("body.json", r#"{ "query": "{ __typename }" }"#);
    let post = ["request", "POST", "authoring:/sitecore/api/authoring/graphql/v1/"];
    let body = ["--data", "@body.json", "-H", "Content-Type: application/json"];
    let response = place.json(Api::Authoring, &[&post[..], &body].concat());
    assert_eq!(response["data"]["__typename"], "Query");

    for (arguments, code, expected) in [
        (&["request", "GET", "deploy:/api/projects/v1/none"][..], 6, "404"),
        (&["request", "GET", "deploy:/outside"], 2, "`/outside` is outside the API"),
        (&["request", "GET", "https://example.com/"], 2, "no API is known at https://example.com"),
        (&["request", "GET", "nowhere"], 2, "expected a path such as deploy:"),
        (&["request", "GET", "deploy:api/x"], 2, "neither the path of an API nor an http"),
        (&["request", "G T", "deploy:/api/x"], 2, "not an HTTP method"),
        (&["request", "GET", "deploy:/api/x", "-H", "nothing"], 2, "expected `name: value`"),
        (&["request", "GET", "deploy:/api/x", "-H", "Authorization: x"], 2, "is set for you"),
        (&["request", "CONNECT", "deploy:/api/x"], 2, "not an HTTP method"),
        (
            &["request", "DELETE", "deploy:/api/x", "--paginate"],
            2,
            "--paginate works only with GET",
        ),
        (&["request", "POST", "deploy:/api/x", "-d", "@missing"], 2, "cannot read missing"),
        (&["request", "GET", "deploy:/api/projects/v1", "--paginate"], 6, "without --paginate"),
    ] {
        assert_fails(&place.run(Api::Deploy, arguments), code, expected);
    }
    place.sandbox.script(Api::Deploy, [Fault::status(503)]);
    assert_fails(&place.run(Api::Deploy, &["request", "GET", "deploy:/api/projects/v1"]), 5, "503");
    for other in [r#"{"items":[1],"hasNext":false}"#, r#"{"items":[1],"totalCount":1}"#] {
        let other = Fault::status(200).body(other).header("content-type", "application/json");
        place.sandbox.script(Api::Deploy, [other]);
        let output = place.run(Api::Deploy, &["request", "GET", "deploy:/api/x", "--paginate"]);
        assert_fails(&output, 6, "not a list with pages");
    }
    // A page without elements may say so with null.
    let empty = Fault::status(200).body(r#"{"totalCount":0,"pageSize":10,"data":null}"#);
    place.sandbox.script(Api::Deploy, [empty.header("content-type", "application/json")]);
    assert_eq!(
        place.json(Api::Deploy, &["request", "GET", "deploy:/api/environments/v1", "--paginate"]),
        json!([])
    );
}

#[test]
fn edge_keys_are_created_listed_renamed_and_revoked_by_hash() {
    let place = Place::new();
    let environment = "2zYj6uPbNq0sWq0Nc9rU1d";
    let key = place.stdout(Api::Deploy, &["edge-key", "get", environment]);
    assert_eq!(key.trim_end(), place.sandbox.edge_key());
    let key = place.json(Api::Deploy, &["edge-key", "get", environment, "--format", "json"]);
    assert_eq!(key["key"], place.sandbox.edge_key());
    // A key that is not shown must not be created.
    if cfg!(unix) {
        let mut lost = place.command(Api::Edge, &["edge-key", "create", "lost"]);
        let lost = lost.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        assert_fails(&lost.wait_with_output().unwrap(), 2, "the new key would be lost");
        let none = place.json(Api::Edge, &["edge-key", "list", "lost", "--format", "json"]);
        assert_eq!(none.as_array().unwrap().len(), 0);
    }
    let created = place.stdout(Api::Edge, &["edge-key", "create", "mine"]);
    assert!(!created.trim_end().is_empty());
    let list = |label| place.json(Api::Edge, &["edge-key", "list", label, "--format", "json"]);
    let hash = list("mine")[0]["hash"].as_str().unwrap().to_owned();
    assert!(place.stdout(Api::Edge, &["edge-key", "list"]).contains(&hash));
    place.stdout(Api::Edge, &["edge-key", "rename", &hash, "yours"]);
    assert_eq!(list("yours")[0]["hash"], hash.as_str());
    let unconfirmed = place.run(Api::Edge, &["edge-key", "revoke", &hash]);
    assert_fails(&unconfirmed, 2, "confirm it with --yes");
    place.stdout(Api::Edge, &["edge-key", "revoke", &hash, "--yes"]);
    assert_eq!(list("yours").as_array().unwrap().len(), 0);
    // A label is not a hash.
    let by_label = place.run(Api::Edge, &["edge-key", "revoke", "mine", "--yes"]);
    assert_fails(&by_label, 2, "a label is not enough");
    let unknown = place.run(Api::Edge, &["edge-key", "revoke", &"0".repeat(32), "--yes"]);
    assert_fails(&unknown, 6, "404");
    let refused = place.run(Api::Deploy, &["edge-key", "list"]);
    assert_fails(&refused, 6, "requires an Edge administration");
    assert_fails(&place.run(Api::Deploy, &["edge-key", "get", "none"]), 6, "404");
    assert_fails(
        &place.run(Api::Deploy, &["edge-key", "get", "a/b"]),
        2,
        "not an environment's id",
    );
    // Only a call that was sent may have created a key.
    place.sandbox.script(Api::Edge, [Fault::status(503)]);
    let unclear = place.run(Api::Edge, &["edge-key", "create", "theirs"]);
    assert!(stderr(&unclear).contains("look for the label theirs"), "{}", stderr(&unclear));
    let mut wrong_secret = place.command(Api::Edge, &["edge-key", "create", "theirs"]);
    wrong_secret.env("SITECORE_AUTH_CLIENT_SECRET", "wrong-secret-of-thirty-two-bytes-and-more");
    let unsent = wrong_secret.output().unwrap();
    assert_fails(&unsent, 4, "check the client id and the client secret");
    assert!(!stderr(&unsent).contains("look for the label"), "{}", stderr(&unsent));
    // A client of another kind creates nothing.
    let forbidden = place.run(Api::Deploy, &["edge-key", "create", "theirs"]);
    assert_fails(&forbidden, 6, "requires an Edge administration client");
    assert!(!stderr(&forbidden).contains("look for the label"), "{}", stderr(&forbidden));
    // A label cannot look like another row.
    place.stdout(Api::Edge, &["edge-key", "create", "a\nb"]);
    assert_eq!(place.stdout(Api::Edge, &["edge-key", "list", "a\nb"]).lines().count(), 2);
}

#[test]
fn the_schema_is_printed_within_the_depth_limit() {
    let place = Place::new();
    let sdl = place.stdout(Api::Authoring, &["schema"]);
    for expected in ["type Query", "type Mutation", "input CreateItemInput", "enum "] {
        assert!(sdl.contains(expected), "{sdl}");
    }
    assert!(place.stdout(Api::Authoring, &["schema", "-o", "schema.graphql"]).is_empty());
    assert_eq!(fs::read_to_string(place.folder.path().join("schema.graphql")).unwrap(), sdl);
    let json = place.json(Api::Authoring, &["schema", "--format", "json"]);
    assert!(json["data"]["__schema"]["types"].as_array().unwrap().len() > 20);
    // Code for the example's query can be generated from it.
    let query =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/graphql/children.graphql");
    let schema = place.folder.path().join("schema.graphql");
    let options = GraphQLClientCodegenOptions::new(CodegenMode::Cli);
    let code = generate_module_token_stream(query, &schema, options).unwrap().to_string();
    assert!(code.contains("struct ResponseData") && code.contains("struct Variables"), "{code}");
    let output = place.run(Api::Authoring, &["schema", "-o", "no/such/folder"]);
    assert_fails(&output, 2, "cannot write");
}

#[test]
fn the_store_can_be_shown_and_cleared() {
    let place = Place::new();
    let status = || place.json(Api::Deploy, &["store", "status", "--format", "json"]);
    assert_eq!(status()["is_stored"], false);
    assert_eq!(place.sandbox.calls(Api::Token), 0, "showing makes no token request");
    let token = place.json(Api::Deploy, &["token", "--format", "json"]);
    let stored = status();
    assert_eq!(
        (&stored["is_stored"], &stored["fingerprint"]),
        (&true.into(), &token["fingerprint"])
    );
    assert!(stored["expires_in"].as_u64().unwrap() > 86_000, "{stored}");
    assert!(place.stdout(Api::Deploy, &["store", "status"]).contains("23 h"));
    let entry = format!("{}.entry", stored["entry"].as_str().unwrap());
    let entry = place.folder.path().join("cache/sitecore-auth").join(entry);
    let sealed = fs::read(entry).unwrap();
    assert!(!sealed.windows(3).any(|bytes| bytes == b"eyJ"), "the token is sealed");
    place.stdout(Api::Deploy, &["store", "clear", "--quiet"]);
    assert_eq!(status()["is_stored"], false);
}

#[test]
fn a_configuration_file_names_credentials_and_assigns_them_to_apis() {
    let place = Place::new();
    let (organization, edge) = (place.client(Api::Deploy), place.client(Api::Edge));
    let config = format!(
        "[credentials.org]\nclient_id = \"{}\"\nsecret_file = \"secrets/org\"\n\
         [credentials.edge]\nclient_id = \"{}\"\nsecret_variable = \"EDGE_SECRET\"\n\
         [apis]\ndeploy = \"org\"\nedge = \"edge\"\n",
        organization.id(),
        edge.id()
    );
    place.write("sitecore-auth.toml", &config);
    place.write("secrets/org", &format!("{}\r\n", organization.secret()));
    place.write("below/it/file", "");
    let below = |arguments: &[&str]| {
        let mut command = place.bare(arguments);
        command.current_dir(place.folder.path().join("below/it"));
        command.env("EDGE_SECRET", edge.secret()).output().unwrap()
    };
    let report = stdout(&below(&["check", "deploy", "edge"]));
    assert_eq!(report.matches("fine").count(), 2, "{report}");
    let inspected = stdout(&below(&["inspect", "--credentials", "edge"]));
    assert!(inspected.contains("[credentials.edge] in "), "{inspected}");

    let unknown = below(&["token", "--credentials", "other"]);
    assert_fails(&unknown, 3, "no credentials `other` (it has: edge, org)");
    let unset = place.bare(&["token", "--credentials", "edge"]).output().unwrap();
    assert_fails(&unset, 3, "EDGE_SECRET");
    for (text, expected) in [
        ("[credentials.a]\nclient_id = \"x\"\n\nclient_secret = \"sentinel\"\n", "line 4"),
        ("[credentials.a]\nclient_id = \"x\"\n", "needs either secret_file or secret_variable"),
        ("[hosts\n", "line 1"),
        ("\u{feff}\n\nx = 1\n", "line 3"),
        ("[credentials]\na = \"sentinel\"\n", "invalid type, expected struct"),
        ("[credentials.a]\nclient_id = \"x\"\nsecret_file = \"missing\"\n", "missing"),
    ] {
        place.write("other.toml", text);
        let arguments = ["token", "--config", "other.toml", "--credentials", "a"];
        let output = place.bare(&arguments).output().unwrap();
        assert_fails(&output, 3, expected);
        assert!(!stderr(&output).contains("sentinel"));
    }
    // One that others can change could redirect the secret.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let path = place.folder.path().join("sitecore-auth.toml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_fails(
            &below(&["token", "--credentials", "org"]),
            3,
            "can be changed by other users",
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    // The only credentials need no name.
    let only = config[..config.find("[credentials.edge]").unwrap()].to_owned();
    place.write("sitecore-auth.toml", &only);
    assert!(stdout(&below(&["inspect"])).contains("[credentials.org]"));
    place.write("sitecore-auth.toml", &config);
    assert_fails(&below(&["token"]), 3, "contains several sets (edge, org)");
    let output = place.bare(&["token", "--config", "none.toml"]).output().unwrap();
    assert_fails(&output, 3, "cannot read none.toml");
    assert!(stderr(&output).contains("check the path"), "{}", stderr(&output));
    // Credentials that are assigned to one API are not used for another.
    let edge_only = format!(
        "[credentials.edge]\nclient_id = \"{}\"\nsecret_variable = \"EDGE_SECRET\"\n[apis]\nedge = \"edge\"\n",
        edge.id()
    );
    place.write("sitecore-auth.toml", &edge_only);
    let mixed = |arguments: &[&str]| {
        let mut command = place.command(Api::Deploy, arguments);
        command.env("EDGE_SECRET", edge.secret()).output().unwrap()
    };
    stdout(&mixed(&["request", "GET", "deploy:/api/projects/v1"]));
    stdout(&mixed(&["request", "GET", "edge:/api/admin/v1/settings"]));
    assert!(stdout(&mixed(&["inspect"])).contains("[credentials.edge]"));
    // What has no credentials is left out.
    assert!(stdout(&below(&["check"])).starts_with("edge"));
    let run = [
        "run",
        "--",
        "sh",
        "-c",
        r#"curl --silent "$SITECORE_PROXY_URL/deploy/" -H "X-Sitecore-Auth-Key: $SITECORE_PROXY_KEY""#,
    ];
    assert!(stdout(&below(&run)).contains("this proxy serves /edge/"), "{}", stdout(&below(&run)));
}

/// Gives the same response to all requests, and then waits for the next one.
fn serve_raw(response: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let response = response.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, response) = (stream.unwrap(), response.clone());
            std::thread::spawn(move || {
                while stream.read(&mut [0; 65_536]).is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(response.as_bytes());
                }
            });
        }
    });
    url
}

fn raw_response(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn a_token_that_says_nothing_about_itself_is_inspected_and_never_shown() {
    let place = Place::new();
    let token = "0paque-t0ken-0123456789";
    let granted =
        format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#);
    let issuer = serve_raw(&raw_response("200 OK", &granted));
    let command = |arguments: &[&str]| {
        let mut command = place.command(Api::Deploy, arguments);
        command.env("SITECORE_AUTH_AUTHORITY", &issuer);
        command
    };
    let shown = stdout(&command(&["inspect"]).output().unwrap());
    assert!(shown.contains("not a JWT") && shown.contains("fingerprint"), "{shown}");
    let shown = stdout(&command(&["inspect", "--format", "json"]).output().unwrap());
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["expires_in"].as_u64().unwrap() > 3_000 && shown["client_id"].is_null());
    // An API quotes the request.
    let quoted = format!(r#"{{"request":"Authorization: Bearer {token}"}}"#);
    let api = serve_raw(&raw_response("400 Bad Request", &quoted));
    let mut request = command(&["request", "GET", "deploy:/api/x"]);
    let output = request.env("SITECORE_DEPLOY_URL", api).output().unwrap();
    assert_fails(&output, 6, "Bearer [token]");
    assert!(!stderr(&output).contains(token));
}

#[test]
fn an_error_status_is_reported_even_if_its_body_does_not_arrive() {
    let place = Place::new();
    let api = serve_raw("HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\nnone");
    let mut request =
        place.command(Api::Deploy, &["request", "GET", "deploy:/api/x", "--timeout", "20s"]);
    let output = request.env("SITECORE_DEPLOY_URL", api).output().unwrap();
    assert_fails(&output, 6, "returned status 404 Not Found: none");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_an_error() {
    use std::os::unix::ffi::OsStrExt as _;

    let place = Place::new();
    let mut request = place.command(Api::Deploy, &["request", "GET", "deploy:/api/x"]);
    request.env("SITECORE_DEPLOY_URL", std::ffi::OsStr::from_bytes(b"http://127.0.0.1:1/\xff"));
    assert_fails(&request.output().unwrap(), 3, "SITECORE_DEPLOY_URL is not valid UTF-8");
}

#[test]
fn named_credentials_with_only_an_audience_use_the_authority_of_the_environment() {
    let place = Place::new();
    let client = place.client(Api::Deploy);
    place.write("secret", client.secret());
    place.write(
        "sitecore-auth.toml",
        &format!(
            "[credentials.deploy]\nclient_id = \"{}\"\nsecret_file = \"secret\"\naudience = \"{}\"",
            client.id(),
            place.sandbox.audience()
        ),
    );
    let mut command = place.bare(&["token", "--credentials", "deploy"]);
    let output = command.env_remove("SITECORE_AUTH_AUDIENCE").output().unwrap();
    assert!(stdout(&output).starts_with("eyJ"));
}

#[test]
fn credentials_come_from_a_file_stdin_or_the_sitecore_cli() {
    let place = Place::new();
    let client = place.client(Api::Deploy);
    place.write("secret", client.secret());
    let from_file = ["inspect", "--client-id", client.id(), "--secret-file", "secret"];
    let text = stdout(&place.bare(&from_file).output().unwrap());
    assert!(text.contains("--client-id and --secret-file secret"), "{text}");
    let mut from_stdin = place.bare(&["token", "--client-id", client.id(), "--secret-file", "-"]);
    let from_stdin = from_stdin.stdin(fs::File::open(place.folder.path().join("secret")).unwrap());
    assert!(stdout(&from_stdin.output().unwrap()).starts_with("eyJ"));
    place.write("quoted", &format!("'{}'", client.secret()));
    let mut from_stdin = place.bare(&["token", "--client-id", client.id(), "--secret-file", "-"]);
    let from_stdin = from_stdin.stdin(fs::File::open(place.folder.path().join("quoted")).unwrap());
    assert_fails(&from_stdin.output().unwrap(), 3, "is enclosed in quotation marks");
    assert_fails(&place.bare(&["token"]).output().unwrap(), 3, "no credentials found");

    let user = format!(
        r#"{{"endpoints":{{"xmCloud":{{"authority":"{}","audience":"{}","clientId":"{}","clientSecret":"{}"}}}}}}"#,
        place.sandbox.authority(),
        place.sandbox.audience(),
        client.id(),
        client.secret()
    );
    // A login of a client that is wrong is not that of a person.
    let wrong = user.replace("\"authority\":\"http", "\"accessToken\":\"old\",\"authority\":\"ftp");
    place.write(".sitecore/user.json", &wrong);
    assert_fails(&place.bare(&["token"]).output().unwrap(), 3, "authority");
    place.write(".sitecore/user.json", &user);
    let text = stdout(&place.bare(&["inspect"]).output().unwrap());
    assert!(text.contains(".sitecore/user.json"), "{text}");
}

#[test]
fn exit_codes_and_json_errors_are_an_interface() {
    let place = Place::new();
    let wrong_secret = |arguments: &[&str]| {
        let mut command = place.command(Api::Deploy, arguments);
        command.env("SITECORE_AUTH_CLIENT_SECRET", "wrong-secret-of-thirty-two-bytes-and-more");
        command.output().unwrap()
    };
    assert_fails(&wrong_secret(&["token"]), 4, "check the client id and the client secret");
    let output = wrong_secret(&["token", "--format", "json"]);
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["error"]["kind"], "refused");
    assert!(error["error"]["message"].is_string() && error["error"]["retry_after"].is_null());

    let limited = Fault::status(429).header("retry-after", "77");
    place.sandbox.script(Api::Token, [limited]);
    let output = place.run(Api::Deploy, &["token", "--format", "json"]);
    assert_eq!(output.status.code(), Some(5));
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    let wait = error["error"]["retry_after"].as_u64().unwrap();
    assert!((77..=85).contains(&wait), "{error}");
    place.stdout(Api::Deploy, &["store", "clear"]);

    place.sandbox.script(Api::Token, [Fault::hang()]);
    let output = place.run(Api::Deploy, &["token", "--timeout", "1s"]);
    assert_fails(&output, 5, "no token within 900ms; check the network");
    place.stdout(Api::Deploy, &["store", "clear"]);
    place.sandbox.script(Api::Deploy, [Fault::hang()]);
    let call = ["request", "GET", "deploy:/api/projects/v1", "--timeout", "1s"];
    assert_fails(&place.run(Api::Deploy, &call), 5, "allow more time with --timeout");
    for arguments in [&["tokens"][..], &["token", "--timeout", "soon"], &["request", "GET"], &[]] {
        let output = place.run(Api::Deploy, arguments);
        assert_fails(&output, 2, "; see sitecore-auth");
        assert!(stderr(&output).ends_with(" --help\n"), "{}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
    let output = place.run(Api::Deploy, &["token", "--format", "json", "--timeout", "soon"]);
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
    // The names that are missing, and the values that are possible.
    assert_fails(&place.run(Api::Deploy, &["request", "GET"]), 2, "<URL>");
    assert_fails(&place.run(Api::Deploy, &["inspect", "--format", "xml"]), 2, "text, json");
    let limited = Fault::status(429).header("retry-after", "77");
    place.sandbox.script(Api::Deploy, [limited]);
    let call = ["request", "GET", "deploy:/api/projects/v1", "--format", "json"];
    let output = place.run(Api::Deploy, &call);
    assert_eq!(output.status.code(), Some(5));
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["error"]["retry_after"], 77, "{error}");
    assert_fails(
        &place.run(Api::Deploy, &["token", "--formats"]),
        2,
        "see sitecore-auth token --help",
    );
    let secret_as_flag = place.run(Api::Deploy, &["token", "--client-secret", "x"]);
    assert_fails(&secret_as_flag, 2, "unexpected argument");
}

#[test]
fn a_stored_failure_says_so_and_can_be_repeated_at_once() {
    let place = Place::new();
    let refused = |arguments: &[&str]| {
        let mut command = place.command(Api::Deploy, arguments);
        command.env("SITECORE_AUTH_AUDIENCE", "https://api.wrong.example");
        command.output().unwrap()
    };
    let requests = || place.sandbox.calls(Api::Token);
    assert_fails(&refused(&["token"]), 4, "refused client");
    assert_eq!(requests(), 1);
    let again = refused(&["token"]);
    assert_fails(&again, 4, "an earlier token request failed: ");
    assert!(stderr(&again).contains("use `sitecore-auth token --force`"), "{}", stderr(&again));
    assert_eq!(requests(), 1);
    let forced = refused(&["token", "--force"]);
    assert!(!stderr(&forced).contains("earlier"), "{}", stderr(&forced));
    assert_fails(&forced, 4, "refused client");
    assert_eq!(requests(), 2);
    // The same if a token is stored. It is kept.
    let first = place.stdout(Api::Deploy, &["token"]);
    let refusal = Fault::status(401).body(r#"{"error":"access_denied"}"#);
    place.sandbox.script(Api::Token, [refusal]);
    let force = || place.run(Api::Deploy, &["token", "--force"]);
    assert_fails(&force(), 4, "refused client");
    assert_eq!(place.stdout(Api::Deploy, &["token"]), first);
    assert_ne!(stdout(&force()), first);
}

#[test]
fn a_command_that_runs_out_of_time_says_why_there_is_no_token() {
    let place = Place::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = place.command(Api::Deploy, &["token", "--timeout", "1s"]);
    command.env("SITECORE_AUTH_AUTHORITY", format!("http://{closed}"));
    assert_fails(&command.output().unwrap(), 5, "could not connect");
}

#[test]
fn a_wrong_url_is_reported_with_the_place_where_it_was_set() {
    let place = Place::new();
    for (url, expected) in [
        ("http://cm.example", "SITECORE_AUTHORING_URL: "),
        ("ftp://cm.example", "SITECORE_AUTHORING_URL: "),
    ] {
        let mut command = place.command(Api::Authoring, &["graphql", "{ sites { name } }"]);
        assert_fails(&command.env("SITECORE_AUTHORING_URL", url).output().unwrap(), 3, expected);
    }
    // It is not mistaken for one that is not set.
    let mut check = place.command(Api::Authoring, &["check"]);
    let output = check.env("SITECORE_AUTHORING_URL", "http://cm.example").output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    let text = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("SITECORE_AUTHORING_URL: http would send"), "{text}");
    let mut proxy = place.command(Api::Authoring, &["proxy", "--idle-exit", "1s"]);
    let output = proxy.env("SITECORE_AUTHORING_URL", "http://cm.example").output().unwrap();
    assert_fails(&output, 3, "SITECORE_AUTHORING_URL: http would send");
    // The CM's folder stands for its GraphQL endpoint.
    let mut command = place.command(Api::Authoring, &["graphql", "{ sites { name } }"]);
    let folder = place.sandbox.origin(Api::Authoring).join("sitecore").unwrap();
    assert!(command.env("SITECORE_AUTHORING_URL", folder.as_str()).status().unwrap().success());
}

#[test]
fn a_wrong_edge_key_is_not_mistaken_for_a_token() {
    let place = Place::new();
    let mut command = place.bare(&["graphql", "--delivery", "{ __typename }"]);
    let output = command.env("SITECORE_EDGE_TOKEN", "wrongkey").output().unwrap();
    assert_fails(&output, 6, "check the key in SITECORE_EDGE_TOKEN");
}

#[test]
fn no_failure_prints_a_secret() {
    let place = Place::new();
    let secrets = |place: &Place| {
        [Api::Deploy, Api::Authoring, Api::Edge].map(|api| place.client(api).secret().to_owned())
    };
    let faults = || {
        [Fault::status(500), Fault::status(401), Fault::garbage(), Fault::cut(), Fault::status(302)]
    };
    for arguments in [
        &["token"][..],
        &["inspect"],
        &["check"],
        &["graphql", "{ sites { name } }"],
        &["request", "GET", "deploy:/api/projects/v1"],
        &["edge-key", "list"],
        &["schema"],
    ] {
        for fault in faults() {
            for api in [Api::Token, Api::Authoring, Api::Deploy, Api::Edge] {
                place.sandbox.break_down(api, fault.clone());
            }
            let output = place.run(Api::Deploy, &[arguments, &["--no-store"]].concat());
            let text = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
            assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}: {text}");
            for secret in secrets(&place) {
                assert!(!text.contains(&secret), "{arguments:?}: {text}");
            }
            assert!(!text.contains("eyJ") && !text.contains("panicked"), "{arguments:?}: {text}");
        }
    }
    // While the program runs, its command line and environment show no token. The secret is only in
    // the environment, where the user has put it.
    for api in [Api::Token, Api::Authoring, Api::Deploy, Api::Edge] {
        place.sandbox.heal(api);
    }
    place.sandbox.script(Api::Deploy, [Fault::delay(Duration::from_secs(2))]);
    let mut running = place.command(Api::Deploy, &["request", "GET", "deploy:/api/projects/v1"]);
    let running = running.stdout(Stdio::piped()).spawn().unwrap();
    pause(Duration::from_secs(1));
    if let Ok(line) = fs::read(Path::new("/proc").join(running.id().to_string()).join("cmdline")) {
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(place.client(Api::Deploy).secret()) && !line.contains("eyJ"));
    }
    assert!(running.wait_with_output().unwrap().status.success());
}

#[test]
fn there_is_help_and_a_completion_script_for_each_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = place.stdout(Api::Deploy, &["completions", shell]);
        assert!(script.contains("edge-key"), "{shell}");
    }
    let help = place.stdout(Api::Deploy, &["--help"]);
    for command in
        ["token", "inspect", "check", "graphql", "request", "edge-key", "schema", "store"]
    {
        assert!(help.contains(command), "{help}");
    }
    assert!(help.contains("Exit codes"), "{help}");
    let version = place.stdout(Api::Deploy, &["--version"]);
    assert_eq!(version, concat!("sitecore-auth ", env!("CARGO_PKG_VERSION"), "\n"));
}
