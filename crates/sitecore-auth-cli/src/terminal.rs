//! What commands print: results, notes, progress and bars, and how names and times are written.

use std::{
    future::Future,
    io::{self, IsTerminal as _, Read as _, Write as _},
    pin::pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use sitecore_auth::{ClientKind, Clock as _, SystemClock};
use tokio::time::timeout;

use crate::{
    args::Common,
    failure::{Failure, Kind, Result},
};

/// Work that takes longer is announced on a terminal.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest text from a server that is quoted.
const MAX_QUOTED: usize = 2_000;

/// Prints a line on stderr. If that fails, there is no place to report it.
pub(crate) fn error_line(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints the result of a command on stdout.
pub(crate) fn print(output: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(output)?;
    stdout.flush()
}

/// Prints a note on stderr, unless `--quiet` is set.
pub(crate) fn note(common: &Common, text: &str) {
    if !common.quiet {
        error_line(&format!("sitecore-auth: {text}"));
    }
}

/// Reads standard input, which can be used for one purpose only.
pub(crate) fn read_stdin() -> Result<Vec<u8>> {
    static IS_READ: AtomicBool = AtomicBool::new(false);
    if IS_READ.swap(true, Ordering::Relaxed) {
        return Err(Failure::usage("standard input is used for two purposes"));
    }
    let mut bytes = Vec::new();
    io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?;
    Ok(bytes)
}

/// The tokens and keys that this program has sent. A server may quote them.
static SENT: Mutex<Vec<SecretString>> = Mutex::new(Vec::new());

/// Hides a token or key that this program sends, in case a server quotes it.
pub(crate) fn hide(header: &HeaderValue) {
    let text = header.to_str().unwrap_or_default();
    let text = text.strip_prefix("Bearer ").unwrap_or(text);
    let mut sent = SENT.lock().unwrap_or_else(PoisonError::into_inner);
    if !text.is_empty() && !sent.iter().any(|known| known.expose_secret() == text) {
        sent.push(text.into());
    }
}

/// Returns a text from a server as it may be shown: on one line, without what could control a
/// terminal, without tokens, and not too long.
pub(crate) fn printable(text: &str) -> String {
    let sent = SENT.lock().unwrap_or_else(PoisonError::into_inner);
    let hidden =
        |text: String, secret: &SecretString| text.replace(secret.expose_secret(), "[token]");
    let text = sent.iter().fold(text.to_owned(), hidden);
    drop(sent);
    let is_hidden = |char: char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::new();
    let mut rest = &*text;
    // A JWT begins with `{"` in base64.
    while let Some(at) = rest.find("eyJ") {
        shown.push_str(&rest[..at]);
        let token = &rest[at..];
        let is_part = |char: char| char.is_ascii_alphanumeric() || "-_.=+/".contains(char);
        let length = token.find(|char| !is_part(char)).unwrap_or(token.len());
        shown.push_str(if length < 20 { &token[..length] } else { "[token]" });
        rest = &token[length..];
    }
    shown.push_str(rest);
    shown.chars().map(|char| if is_hidden(char) { ' ' } else { char }).take(MAX_QUOTED).collect()
}

/// Waits for a result, for as long as the command may take. Says on a terminal what it waits for.
pub(crate) async fn wait_for<T>(
    common: &Common,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let limit = common.timeout;
    let mut work = pin!(work);
    let late = || {
        let message = format!("gave up after {} while {what}", humantime::format_duration(limit));
        Failure::new(Kind::Unavailable, message).hint("allow more time with --timeout")
    };
    if let Ok(result) = timeout(PATIENCE.min(limit), &mut work).await {
        return result;
    }
    if io::stderr().is_terminal() {
        note(common, &format!("{what} …"));
    }
    timeout(limit.saturating_sub(PATIENCE), work).await.unwrap_or_else(|_| Err(late()))
}

/// Returns a bar of this many characters, filled to this part.
pub(crate) fn bar(part: f64, width: usize) -> String {
    let filled = (part.clamp(0.0, 1.0) * width as f64).round() as usize;
    format!("{}{}", "█".repeat(filled), "░".repeat(width - filled))
}

/// Returns a duration in words, such as `23 h 59 min`.
pub(crate) fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Returns the time by this machine's clock.
pub(crate) fn now() -> DateTime<Utc> {
    let millis = i64::try_from(SystemClock.now().wall().as_millis()).unwrap_or(i64::MAX);
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}

/// Returns a stable name of the kind of client, for JSON.
pub(crate) fn key_of(kind: ClientKind) -> &'static str {
    match kind {
        ClientKind::Organization => "organization",
        ClientKind::Environment => "environment",
        ClientKind::EdgeAdministration => "edge_administration",
        ClientKind::EditingHost => "editing_host",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_cannot_control_the_terminal_or_show_a_token() {
        let jwt = format!("eyJ{}.{}", "a".repeat(30), "b".repeat(30));
        for (text, expected) in [
            ("plain äö", "plain äö"),
            ("a\nb\x1b[31mc\u{202e}d", "a b [31mc d"),
            ("eyJ is short", "eyJ is short"),
            (&format!("\"Bearer {jwt}\", {jwt}"), "\"Bearer [token]\", [token]"),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable(&"x".repeat(5_000)).len(), MAX_QUOTED);
    }
}
