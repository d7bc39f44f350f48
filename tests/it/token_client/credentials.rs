//! Credentials from the environment and from the Sitecore CLI's `user.json`.

use std::{fs, path::Path};

use secrecy::ExposeSecret as _;
use serde_json::json;
use sitecore_auth::{Clock as _, SitecoreCliLogin, SystemClock, TokenCache};
use sitecore_token::{ClientCredentials, Endpoint, Error, ErrorKind};

use crate::support::jwt;

const NAMES: [&str; 6] = [
    "SITECORE_AUTH_CLIENT_ID",
    "SITECORE_AUTH_CLIENT_SECRET",
    "SITECORE_CLIENT_ID",
    "SITECORE_CLIENT_SECRET",
    "SITECORE_AUTH_AUTHORITY",
    "SITECORE_AUTH_AUDIENCE",
];

/// Runs `run` with these variables set and our other ones unset.
fn with_env<T>(set: &[(&str, &str)], run: impl FnOnce() -> T) -> T {
    let value = |name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| *value);
    temp_env::with_vars(NAMES.map(|name| (name, value(name))), run)
}

fn pair(credentials: &ClientCredentials) -> (&str, &str) {
    (credentials.client_id(), credentials.client_secret().expose_secret())
}

/// Checks for a `Config` error whose message contains this text.
fn config(error: Error, text: &str) {
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains(text), "{error} does not contain {text}");
}

#[test]
fn credentials_come_from_one_pair_of_variables() {
    let first = [("SITECORE_AUTH_CLIENT_ID", "a"), ("SITECORE_AUTH_CLIENT_SECRET", "b\n")];
    let second = [("SITECORE_CLIENT_ID", "c"), ("SITECORE_CLIENT_SECRET", "\u{feff} d d \r\n")];
    with_env(&first, || {
        assert_eq!(pair(&ClientCredentials::from_env().unwrap()), ("a", "b"));
    });
    with_env(&second, || {
        assert_eq!(pair(&ClientCredentials::from_env().unwrap()), ("c", "d d"));
    });
    let both = [first, second].concat();
    with_env(&both, || {
        assert_eq!(pair(&ClientCredentials::from_env().unwrap()), ("a", "b"));
    });
}

#[test]
fn credentials_of_several_clients_have_prefixes() {
    let variables = [
        ("SITECORE_EDGE_CLIENT_ID", Some("edge")),
        ("SITECORE_EDGE_CLIENT_SECRET", Some("\u{feff}edge-secret\n")),
        ("MINE_CLIENT_ID", Some("mine")),
        ("MINE_CLIENT_SECRET", None),
    ];
    temp_env::with_vars(variables, || {
        let edge = ClientCredentials::from_env_prefix("SITECORE_EDGE").unwrap();
        assert_eq!(pair(&edge), ("edge", "edge-secret"));
        config(ClientCredentials::from_env_prefix("MINE").unwrap_err(), "MINE_CLIENT_SECRET");
        config(ClientCredentials::from_env_prefix("OTHER").unwrap_err(), "OTHER_CLIENT_ID");
    });
}

#[test]
fn a_value_with_a_character_that_no_secret_has_is_an_error_that_names_it() {
    for (value, text) in [
        ("\"quoted\"", "quotation marks"),
        ("'quoted'", "quotation marks"),
        ("\u{201c}curly\u{201d}", "U+201C"),
        ("non\u{a0}breaking", "U+00A0"),
        ("zero\u{200b}width", "U+200B"),
        ("two\nlines", "U+000A"),
        ("a\ttab", "U+0009"),
        ("ümlaut", "'ü'"),
    ] {
        for name in ["SITECORE_AUTH_CLIENT_ID", "SITECORE_AUTH_CLIENT_SECRET"] {
            let mut set =
                vec![("SITECORE_AUTH_CLIENT_ID", "a"), ("SITECORE_AUTH_CLIENT_SECRET", "b")];
            set.iter_mut().find(|(other, _)| *other == name).unwrap().1 = value;
            let error = with_env(&set, || ClientCredentials::from_env().expect_err(value));
            assert!(error.to_string().contains(name), "{error}");
            config(error, text);
        }
    }
    // Printable ASCII is fine.
    let set =
        [("SITECORE_AUTH_CLIENT_ID", "a"), ("SITECORE_AUTH_CLIENT_SECRET", "a \"b\" 'c' ~!%+&=:/")];
    let credentials = with_env(&set, || ClientCredentials::from_env().unwrap());
    assert_eq!(pair(&credentials).1, "a \"b\" 'c' ~!%+&=:/");
}

#[test]
fn a_missing_or_empty_variable_is_named() {
    let error = |set: &[(&str, &str)]| {
        with_env(set, || ClientCredentials::from_env().expect_err("an error"))
    };
    config(error(&[]), "SITECORE_AUTH_CLIENT_ID");
    config(error(&[("SITECORE_AUTH_CLIENT_ID", "a")]), "SITECORE_AUTH_CLIENT_SECRET");
    config(error(&[("SITECORE_CLIENT_SECRET", "a")]), "SITECORE_CLIENT_ID");
    config(
        error(&[("SITECORE_AUTH_CLIENT_ID", "a"), ("SITECORE_AUTH_CLIENT_SECRET", "")]),
        "SITECORE_AUTH_CLIENT_SECRET",
    );
    // Half of one pair is not combined with half of the other.
    let mixed = [
        ("SITECORE_AUTH_CLIENT_ID", "a"),
        ("SITECORE_CLIENT_ID", "c"),
        ("SITECORE_CLIENT_SECRET", "d"),
    ];
    config(error(&mixed), "SITECORE_AUTH_CLIENT_SECRET");
}

#[test]
fn the_endpoint_comes_from_variables_with_defaults() {
    let read = |set: &[(&str, &str)]| with_env(set, Endpoint::from_env);
    assert_eq!(read(&[]).unwrap(), Endpoint::sitecore_cloud());
    let own = read(&[
        ("SITECORE_AUTH_AUTHORITY", "https://auth.example/tenant/"),
        ("SITECORE_AUTH_AUDIENCE", "mine"),
    ])
    .unwrap();
    assert_eq!(own.token_url().as_str(), "https://auth.example/tenant/oauth/token");
    assert_eq!(own.audience(), Some("mine"));
    let local = read(&[("SITECORE_AUTH_AUTHORITY", "http://127.0.0.1:8080")]).unwrap();
    assert_eq!(local.token_url().as_str(), "http://127.0.0.1:8080/oauth/token");
    for bad in [
        "http://auth.example",
        "auth.example",
        "",
        "https://auth.example/?tenant=1",
        "https://auth.example/oauth/token",
    ] {
        config(
            read(&[("SITECORE_AUTH_AUTHORITY", bad)]).expect_err(bad),
            "SITECORE_AUTH_AUTHORITY",
        );
    }
    for bad in ["", "\"https://api.example\"", "'a'", "https://api.example\u{200b}", "api\u{e9}"] {
        let error = read(&[("SITECORE_AUTH_AUDIENCE", bad)]).expect_err(bad);
        config(error, "SITECORE_AUTH_AUDIENCE");
    }
    let quoted = read(&[("SITECORE_AUTH_AUTHORITY", "\"https://auth.example\"")]).unwrap_err();
    assert!(quoted.to_string().contains("quotation marks"), "{quoted}");
}

/// Writes `.sitecore/user.json` and reads it from a folder two levels below.
fn from_cli(user_json: &str) -> Result<(ClientCredentials, Endpoint), Error> {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), user_json);
    let below = root.path().join("src").join("site");
    fs::create_dir_all(&below).unwrap();
    ClientCredentials::from_sitecore_cli(&below)
}

fn write(root: &Path, user_json: &str) {
    fs::create_dir(root.join(".sitecore")).unwrap();
    fs::write(root.join(".sitecore").join("user.json"), user_json).unwrap();
}

#[test]
fn the_cli_login_is_found_in_a_parent_folder() {
    let (credentials, endpoint) = from_cli(
        "\u{feff}{\"endpoints\":{\"xmCloud\":{\"authority\":\"https://auth.example\",\"audience\":\"mine\",\
         \"clientId\":\"id\",\"clientSecret\":\"secret\",\"accessToken\":\"old\",\"expiresIn\":86400},\
         \"local\":{\"host\":\"https://cm.localhost\"}}}",
    )
    .unwrap();
    assert_eq!(pair(&credentials), ("id", "secret"));
    assert_eq!(endpoint.token_url().as_str(), "https://auth.example/oauth/token");
    assert_eq!(endpoint.audience(), Some("mine"));
    let (_, endpoint) =
        from_cli(r#"{"endpoints":{"xmCloud":{"clientId":"id","clientSecret":"secret"}}}"#).unwrap();
    assert_eq!(endpoint, Endpoint::sitecore_cloud());
}

#[test]
fn the_clis_audience_for_cms_is_not_used() {
    let (_, endpoint) = from_cli(
        r#"{"endpoints":{"xmCloud":{"audience":"https://xmcloud-cm.sitecorecloud.io","clientId":"id","clientSecret":"secret"}}}"#,
    )
    .unwrap();
    assert_eq!(endpoint, Endpoint::sitecore_cloud());
    let interactive = r#"{"endpoints":{"xmCloud":{"clientId":"id","accessToken":"sentinel"}}}"#;
    let error = from_cli(interactive).unwrap_err();
    assert!(!format!("{error:?}").contains("sentinel"), "{error:?}");
    config(error, "an interactive login");
}

#[tokio::test]
async fn an_interactive_cli_login_is_used_until_it_expires() {
    let root = tempfile::tempdir().unwrap();
    let save = |token: &str| {
        let file = json!({ "endpoints": { "xmCloud": { "accessToken": token } } });
        fs::write(root.path().join(".sitecore").join("user.json"), file.to_string()).unwrap();
    };
    let expiring_in = |seconds: i64| {
        let now = SystemClock.now().wall().as_secs() as i64;
        jwt(&json!({ "exp": now + seconds }))
    };
    write(root.path(), "{}");
    let cache = TokenCache::new(SitecoreCliLogin::new(root.path()));
    let error = cache.token().await.unwrap_err();
    assert_eq!(error.kind(), sitecore_auth::ErrorKind::Config);
    let token = expiring_in(600);
    save(&token);
    cache.retry_now();
    let current = cache.token().await.unwrap();
    let lifetime = current.lifetime().unwrap().as_secs();
    assert!((595..=600).contains(&lifetime), "{lifetime}");
    // An API rejects it: only another login helps.
    let error = cache.replace(&current).await.unwrap_err();
    assert!(
        error.to_string().contains("rejects the token of the Sitecore CLI's login; log in again"),
        "{error}"
    );
    save(&expiring_in(-1));
    let expired = TokenCache::new(SitecoreCliLogin::new(root.path()));
    let error = expired.token().await.unwrap_err();
    assert_eq!(error.kind(), sitecore_auth::ErrorKind::Config);
    assert!(error.to_string().contains("has expired; log in again"), "{error}");
}

#[test]
fn errors_in_the_cli_login_are_named_without_quoting_it() {
    for (user_json, message) in [
        ("sentinel", "line 1"),
        (r#"{"endpoints":{"xmCloud":{"clientSecret":["sentinel"]}}}"#, "user.json"),
        (r#"{"endpoints":{"other":{"clientSecret":"sentinel"}}}"#, "xmCloud"),
        (r#"{"endpoints":{"xmCloud":{"clientSecret":"sentinel"}}}"#, "clientId"),
        (
            r#"{"endpoints":{"xmCloud":{"clientId":"","clientSecret":"sentinel"}}}"#,
            "`clientId` of endpoint",
        ),
        (
            r#"{"endpoints":{"xmCloud":{"clientId":"a","clientSecret":"sentinel","authority":"http://auth.example"}}}"#,
            "https",
        ),
        (
            r#"{"endpoints":{"xmCloud":{"clientId":"a","clientSecret":"sentinel","audience":""}}}"#,
            "`audience` of endpoint",
        ),
        ("{}", "xmCloud"),
    ] {
        let error = from_cli(user_json).expect_err(message);
        assert!(!format!("{error}{error:?}").contains("sentinel"), "{error:?}");
        config(error, message);
    }
    let empty = tempfile::tempdir().unwrap();
    config(ClientCredentials::from_sitecore_cli(empty.path()).unwrap_err(), "dotnet sitecore");
    config(ClientCredentials::from_sitecore_cli(empty.path().join("gone")).unwrap_err(), "gone");
}

#[cfg(unix)]
#[test]
fn a_cli_login_that_is_not_a_regular_file_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    // A folder, which not even root can read as a file.
    fs::create_dir_all(root.path().join(".sitecore").join("user.json")).unwrap();
    config(ClientCredentials::from_sitecore_cli(root.path()).unwrap_err(), "not a regular file");
    // A named pipe without a writer, which would block the program.
    let file = root.path().join(".sitecore").join("user.json");
    fs::remove_dir(&file).unwrap();
    let status = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
    assert!(status.success());
    config(ClientCredentials::from_sitecore_cli(root.path()).unwrap_err(), "not a regular file");
}

#[cfg(unix)]
#[test]
fn a_cli_login_of_another_user_is_not_trusted() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), r#"{"endpoints":{"xmCloud":{"clientId":"a","clientSecret":"b"}}}"#);
    let file = root.path().join(".sitecore").join("user.json");
    // Only root can change a file's owner. Other users link to a file that belongs to root.
    if std::os::unix::fs::chown(&file, Some(12_345), None).is_err() {
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    }
    config(ClientCredentials::from_sitecore_cli(root.path()).unwrap_err(), "another user");
}

#[cfg(unix)]
#[test]
fn a_cli_login_that_others_can_write_to_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt as _;

    let root = tempfile::tempdir().unwrap();
    write(root.path(), r#"{"endpoints":{"xmCloud":{"clientId":"a","clientSecret":"b"}}}"#);
    let file = root.path().join(".sitecore").join("user.json");
    for (mode, is_trusted) in
        [(0o600, true), (0o644, true), (0o620, false), (0o666, false), (0o602, false)]
    {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        match ClientCredentials::from_sitecore_cli(root.path()) {
            Ok(_) => assert!(is_trusted, "{mode:o}"),
            Err(error) => {
                assert!(!is_trusted, "{mode:o}: {error}");
                config(error, "chmod go-w");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_cli_login_behind_a_symbolic_link_is_not_trusted() {
    use std::os::unix::fs::symlink;

    let root = tempfile::tempdir().unwrap();
    let (real, project) = (root.path().join("real"), root.path().join("project"));
    fs::create_dir(&real).unwrap();
    fs::create_dir(&project).unwrap();
    write(&real, r#"{"endpoints":{"xmCloud":{"clientId":"a","clientSecret":"b"}}}"#);
    // The folder is a link, and then the file in it. A dangling link is one too.
    symlink(real.join(".sitecore"), project.join(".sitecore")).unwrap();
    config(ClientCredentials::from_sitecore_cli(&project).unwrap_err(), "is a symbolic link");
    fs::remove_file(project.join(".sitecore")).unwrap();
    fs::create_dir(project.join(".sitecore")).unwrap();
    let link = project.join(".sitecore").join("user.json");
    for target in [real.join(".sitecore").join("user.json"), real.join("missing")] {
        symlink(target, &link).unwrap();
        config(ClientCredentials::from_sitecore_cli(&project).unwrap_err(), "is a symbolic link");
        fs::remove_file(&link).unwrap();
    }
    // The start folder itself may be one.
    symlink(&real, root.path().join("start")).unwrap();
    ClientCredentials::from_sitecore_cli(root.path().join("start")).expect("a login");
}

#[test]
fn credentials_do_not_show_their_secret() {
    let credentials = ClientCredentials::new("the-id", "sentinel");
    for shown in [format!("{credentials:?}"), format!("{credentials:#?}")] {
        assert!(shown.contains("the-id") && !shown.contains("sentinel"), "{shown}");
    }
}
