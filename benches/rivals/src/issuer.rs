//! A fake token issuer, called in process or by OAuth2 over loopback HTTP. It can be slow, and it
//! can fail.

use std::{
    fmt, io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The length of a Sitecore access token.
const TOKEN_BYTES: usize = 1_200;

const LIFETIME: Duration = Duration::from_secs(3_600);

/// Grants tokens. Clones are handles to the same issuer.
#[derive(Clone, Debug)]
pub struct Issuer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    token_url: String,
    delay_nanos: AtomicU64,
    lifetime_nanos: AtomicU64,
    fails: AtomicBool,
    token_requests: AtomicU64,
    tokens: AtomicU64,
    last_response: Mutex<Instant>,
}

/// A granted token.
#[derive(Debug)]
pub struct Granted {
    pub token: String,
    pub lifetime: Duration,
}

/// The error of a token request while the issuer is set to fail.
#[derive(Debug)]
pub struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the issuer is out of order")
    }
}

impl std::error::Error for Failed {}

impl Issuer {
    /// Starts an issuer that responds at once with tokens of one hour. Its endpoint runs until the
    /// runtime shuts down.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let issuer = Self(Arc::new(Inner {
            token_url: format!("http://{}/token", listener.local_addr()?),
            delay_nanos: AtomicU64::new(0),
            lifetime_nanos: AtomicU64::new(nanos(LIFETIME)),
            fails: AtomicBool::new(false),
            token_requests: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
            last_response: Mutex::new(Instant::now()),
        }));
        // The body is ignored: some rivals send JSON, others a form.
        let app = Router::new().route("/token", post(respond)).with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(issuer)
    }

    pub fn token_url(&self) -> String {
        self.0.token_url.clone()
    }

    /// Sets how long each response takes.
    pub fn set_delay(&self, delay: Duration) {
        self.0.delay_nanos.store(nanos(delay), Relaxed);
    }

    /// Sets the lifetime of tokens. HTTP responses contain it in whole seconds.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.0.lifetime_nanos.store(nanos(lifetime), Relaxed);
    }

    /// Sets whether all token requests fail.
    pub fn set_fails(&self, fails: bool) {
        self.0.fails.store(fails, Relaxed);
    }

    /// Returns the number of token requests since the last reset, failed ones included.
    pub fn token_requests(&self) -> u64 {
        self.0.token_requests.load(Relaxed)
    }

    /// Returns the time since the last response.
    pub fn since_last_response(&self) -> Duration {
        self.0.last_response.lock().map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Restores the initial settings and resets the counter.
    pub fn restore(&self) {
        self.set_delay(Duration::ZERO);
        self.set_lifetime(LIFETIME);
        self.set_fails(false);
        self.reset();
    }

    /// Resets the counter of token requests. Later tokens still differ from all earlier ones.
    pub fn reset(&self) {
        self.0.token_requests.store(0, Relaxed);
    }

    /// Returns a token that has never been granted before.
    pub async fn request_token(&self) -> Result<Granted, Failed> {
        self.0.token_requests.fetch_add(1, Relaxed);
        let delay = Duration::from_nanos(self.0.delay_nanos.load(Relaxed));
        // Even a zero sleep waits for a turn of the timer, which would be an unintended delay.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Ok(mut at) = self.0.last_response.lock() {
            *at = Instant::now();
        }
        if self.0.fails.load(Relaxed) {
            return Err(Failed);
        }
        let number = self.0.tokens.fetch_add(1, Relaxed);
        Ok(Granted {
            token: format!("{number:x<TOKEN_BYTES$}"),
            lifetime: Duration::from_nanos(self.0.lifetime_nanos.load(Relaxed)),
        })
    }

    /// Returns a new token as the JSON of an OAuth2 token response.
    pub async fn request_token_json(&self) -> Result<Value, Failed> {
        let Granted { token, lifetime } = self.request_token().await?;
        Ok(json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": lifetime.as_secs(),
        }))
    }
}

async fn respond(State(issuer): State<Issuer>) -> Result<Json<Value>, StatusCode> {
    match issuer.request_token_json().await {
        Ok(response) => Ok(Json(response)),
        Err(Failed) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
