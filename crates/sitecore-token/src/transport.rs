//! What went wrong below HTTP: the phase, and what to do about it.

use std::{error::Error as StdError, io, time::Duration};

use crate::error::{Error, ErrorKind};

/// What TLS libraries say about a certificate authority that they do not know.
const UNKNOWN_AUTHORITY: [&str; 4] = [
    "UnknownIssuer",
    "unable to get local issuer certificate",
    "self-signed certificate",
    "certificate is not trusted",
];

/// What TLS libraries say about a server that does not speak TLS.
const NOT_TLS: [&str; 3] = ["InvalidContentType", "wrong version number", "http request"];

/// Returns the error of a request to `host` that got no complete response within `timeout`.
///
/// The message names the phase and the host. `source()` skips the causes that the message already
/// covers.
pub(crate) fn transport_error(error: reqwest::Error, host: &str, timeout: Duration) -> Error {
    let phase = Phase::of(&error);
    let has_cause = |texts: &[&str]| {
        causes(&error).any(|cause| texts.iter().any(|text| cause.to_string().contains(text)))
    };
    let message = match phase {
        Phase::Lookup => {
            format!("could not resolve {host}; check the host name, DNS and the network")
        }
        Phase::Proxy if has_cause(&["authorization required"]) => format!(
            "the proxy for {host} requires credentials; add a user name and a password to the proxy's URL"
        ),
        Phase::Proxy => format!(
            "the proxy did not connect to {host}; check HTTPS_PROXY, or exclude the host with NO_PROXY"
        ),
        Phase::Connect => {
            format!("could not connect to {host}; check the network, the port and the firewall")
        }
        Phase::Tls if has_cause(&UNKNOWN_AUTHORITY) => format!(
            "the certificate of {host} is from an unknown authority; if a company proxy inspects TLS, install its root certificate on this machine"
        ),
        Phase::Tls if has_cause(&NOT_TLS) => {
            format!("{host} does not speak TLS on this port; check the port of the token URL")
        }
        Phase::Tls if has_cause(&["Expired", "NotValidYet", "has expired"]) => format!(
            "the certificate of {host} is expired or not valid yet; check this machine's clock, then the server's certificate"
        ),
        Phase::Tls if has_cause(&["CaUsedAsEndEntity"]) => format!(
            "the certificate of {host} is that of a certificate authority; install a server certificate there"
        ),
        Phase::Tls => format!("the TLS handshake with {host} failed; check the token URL"),
        Phase::Exchange if error.is_timeout() => {
            format!(
                "{host} did not complete its response within {timeout:?}; check the network and the firewall, or try again later"
            )
        }
        Phase::Exchange if has_cause(&["invalid HTTP version"]) => format!(
            "{host} does not speak HTTP on this port; check the scheme and the port of the token URL"
        ),
        Phase::Exchange => format!("the connection to {host} was interrupted; try again later"),
    };
    // The message covers the causes above the I/O error, or else all but the last.
    let covered = causes(&error).position(<dyn StdError>::is::<io::Error>);
    let covered = covered.unwrap_or_else(|| causes(&error).count() - 1);
    let failure = Error::new(ErrorKind::Unavailable, message)
        .with_source(error.without_url())
        .covering(covered);
    match phase {
        Phase::Lookup | Phase::Proxy | Phase::Connect => failure.never_reaching_issuer(),
        Phase::Tls | Phase::Exchange => failure,
    }
}

/// Returns `true` if the operating system reported the failure.
pub(crate) fn has_os_cause(error: &reqwest::Error) -> bool {
    io_causes(error).any(|cause| cause.raw_os_error().is_some())
}

#[derive(Clone, Copy)]
enum Phase {
    Lookup,
    Proxy,
    Connect,
    Tls,
    Exchange,
}

impl Phase {
    fn of(error: &reqwest::Error) -> Self {
        // The tunnel's own error type is private.
        let is_tunnel =
            |cause: &(dyn StdError + 'static)| cause.to_string().starts_with("tunnel error");
        // Errors below TLS have an operating system error code. Errors of TLS itself do not.
        let is_tls =
            || io_causes(error).next().is_some() && !error.is_timeout() && !has_os_cause(error);
        // A proxy can also fail because its own name is not resolved.
        if error.is_connect() && causes(error).any(is_tunnel) {
            Self::Proxy
        } else if error.is_dns() {
            Self::Lookup
        } else if !error.is_connect() {
            Self::Exchange
        } else if is_tls() {
            Self::Tls
        } else {
            Self::Connect
        }
    }
}

/// Returns the error and its causes.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(Some(error as &(dyn StdError + 'static)), |&cause| cause.source())
}

fn io_causes(error: &reqwest::Error) -> impl Iterator<Item = &io::Error> {
    causes(error).filter_map(|cause| cause.downcast_ref())
}
