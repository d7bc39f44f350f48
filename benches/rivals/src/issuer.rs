//! A fake issuer of tokens: it can be asked in process, or by OAuth2 over loopback HTTP, and is slow or out
//! of order as it is told.

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

/// As long as an access token of Sitecore's.
const TOKEN_BYTES: usize = 1_200;

const LIFE: Duration = Duration::from_secs(3_600);

/// Grants tokens. Clones are handles to the same issuer.
#[derive(Clone, Debug)]
pub struct Issuer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    token_url: String,
    delay_nanos: AtomicU64,
    life_nanos: AtomicU64,
    fails: AtomicBool,
    calls: AtomicU64,
    grants: AtomicU64,
    last_answer: Mutex<Instant>,
}

/// What a grant brings.
#[derive(Debug)]
pub struct Granted {
    pub token: String,
    pub life: Duration,
}

/// Why there is no grant.
#[derive(Debug)]
pub struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the issuer is out of order")
    }
}

impl std::error::Error for Failed {}

impl Issuer {
    /// Starts an issuer that grants at once, for an hour. Its endpoint lives as long as the runtime.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let issuer = Self(Arc::new(Inner {
            token_url: format!("http://{}/token", listener.local_addr()?),
            delay_nanos: AtomicU64::new(0),
            life_nanos: AtomicU64::new(nanos(LIFE)),
            fails: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            grants: AtomicU64::new(0),
            last_answer: Mutex::new(Instant::now()),
        }));
        // Some rivals post JSON and some a form: what they send decides nothing, so it is not looked at.
        let app = Router::new().route("/token", post(answer)).with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(issuer)
    }

    /// Returns the address that answers `POST` with a token.
    pub fn token_url(&self) -> String {
        self.0.token_url.clone()
    }

    /// Sets how long a grant takes.
    pub fn set_delay(&self, delay: Duration) {
        self.0.delay_nanos.store(nanos(delay), Relaxed);
    }

    /// Sets how long a token lives. Over HTTP it is told in whole seconds.
    pub fn set_life(&self, life: Duration) {
        self.0.life_nanos.store(nanos(life), Relaxed);
    }

    /// Sets whether it refuses every call.
    pub fn set_fails(&self, fails: bool) {
        self.0.fails.store(fails, Relaxed);
    }

    /// Returns how often it was asked since the last reset, in vain or not.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Relaxed)
    }

    /// Returns how long ago it answered last.
    pub fn since_last_answer(&self) -> Duration {
        self.0.last_answer.lock().map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Grants at once again, for an hour, and forgets the calls.
    pub fn restore(&self) {
        self.set_delay(Duration::ZERO);
        self.set_life(LIFE);
        self.set_fails(false);
        self.reset();
    }

    /// Forgets the calls. The tokens go on being different.
    pub fn reset(&self) {
        self.0.calls.store(0, Relaxed);
    }

    /// Grants a token that it has never granted before.
    pub async fn grant(&self) -> Result<Granted, Failed> {
        self.0.calls.fetch_add(1, Relaxed);
        let delay = Duration::from_nanos(self.0.delay_nanos.load(Relaxed));
        // Even a sleep of nothing takes a turn of the timer, which would be a delay that nobody set.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Ok(mut at) = self.0.last_answer.lock() {
            *at = Instant::now();
        }
        if self.0.fails.load(Relaxed) {
            return Err(Failed);
        }
        let number = self.0.grants.fetch_add(1, Relaxed);
        Ok(Granted {
            token: format!("{number:x<TOKEN_BYTES$}"),
            life: Duration::from_nanos(self.0.life_nanos.load(Relaxed)),
        })
    }

    /// Grants a token as an OAuth2 answer.
    pub async fn grant_json(&self) -> Result<Value, Failed> {
        let Granted { token, life } = self.grant().await?;
        Ok(json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": life.as_secs(),
        }))
    }
}

async fn answer(State(issuer): State<Issuer>) -> Result<Json<Value>, StatusCode> {
    match issuer.grant_json().await {
        Ok(answer) => Ok(Json(answer)),
        Err(Failed) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
