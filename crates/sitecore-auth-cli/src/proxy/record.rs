//! What the proxy remembers and logs about its calls: no query, headers or bodies.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use hyper::StatusCode;
use serde::{Serialize, Serializer};
use tokio::time::{Instant, sleep};

use super::upstream::Sent;
use crate::terminal::{error_line, now, printable};

/// How many calls the status page lists.
const KEPT: usize = 100;

/// How many lines of the log may wait for a reader of stderr.
const MAX_UNWRITTEN: usize = 1_000;

/// How long the exit waits for a reader of stderr.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// A call that has ended.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Record {
    #[serde(serialize_with = "as_text")]
    pub(crate) at: DateTime<Utc>,
    pub(crate) method: String,
    /// Empty if the call was for no API.
    pub(crate) upstream: &'static str,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) milliseconds: u64,
    /// How long the call waited for a token.
    pub(crate) waited_milliseconds: u64,
    pub(crate) is_replayed: bool,
    /// The proxy responded itself.
    pub(crate) is_own_error: bool,
    /// Why the call failed, if the operator of the proxy has to solve it.
    #[serde(skip)]
    pub(crate) reason: Option<String>,
}

/// Which calls are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    All,
    /// Only the reasons of failures that the operator has to solve.
    Failures,
    None,
}

fn as_text<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// The latest calls.
#[derive(Clone, Debug)]
pub(crate) struct Records(Arc<State>);

#[derive(Debug)]
struct State {
    latest: Mutex<VecDeque<Record>>,
    in_flight: AtomicUsize,
    last_activity: Mutex<Instant>,
    logged: Logged,
    log: Option<Log>,
    /// Why the last call to each API failed.
    reasons: Mutex<HashMap<&'static str, String>>,
}

/// The log on stderr. A thread writes it, because a reader that has stopped must not hold up the
/// calls.
#[derive(Debug)]
struct Log {
    sender: SyncSender<String>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    unwritten: AtomicUsize,
    /// Lines that were dropped, because too many were unwritten.
    dropped: AtomicUsize,
}

impl Log {
    fn start() -> Self {
        let (sender, lines) = sync_channel::<String>(MAX_UNWRITTEN);
        let counts = Arc::<Counts>::default();
        let written = Arc::clone(&counts);
        let write = move || {
            for line in lines {
                error_line(&line);
                written.unwritten.fetch_sub(1, Ordering::Relaxed);
            }
        };
        std::thread::spawn(write);
        Self { sender, counts }
    }

    fn write(&self, line: String) {
        let dropped = self.counts.dropped.swap(0, Ordering::Relaxed);
        let line = match dropped {
            0 => line,
            _ => format!("{dropped} lines are missing here, because stderr was not read\n{line}"),
        };
        self.counts.unwritten.fetch_add(1, Ordering::Relaxed);
        if self.sender.try_send(line).is_err() {
            self.counts.unwritten.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }
}

impl Records {
    pub(crate) fn new(logged: Logged) -> Self {
        Self(Arc::new(State {
            latest: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            last_activity: Mutex::new(Instant::now()),
            logged,
            log: (logged != Logged::None).then(Log::start),
            reasons: Mutex::default(),
        }))
    }

    /// Begins a call. It ends when the result is dropped.
    pub(crate) fn begin(&self, method: &str, path: &str) -> Call {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        Call {
            records: self.clone(),
            started: Instant::now(),
            asked: None,
            sent: Sent::default(),
            record: Record {
                at: now(),
                method: method.to_owned(),
                path: printable(path).chars().take(500).collect(),
                ..Record::default()
            },
        }
    }

    /// Waits until the log is written, but not for long if it is not read.
    pub(crate) async fn flush_log(&self) {
        let Some(log) = &self.0.log else { return };
        let started = Instant::now();
        while log.counts.unwritten.load(Ordering::Relaxed) > 0 && started.elapsed() < FLUSH_TIME {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns the latest calls, the newest first.
    pub(crate) fn latest(&self) -> Vec<Record> {
        lock(&self.0.latest).iter().rev().cloned().collect()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the time since the last call; zero while one is in flight.
    pub(crate) fn idle_time(&self) -> Duration {
        match self.in_flight() {
            0 => lock(&self.0.last_activity).elapsed(),
            _ => Duration::ZERO,
        }
    }

    fn log(&self, record: &Record) {
        let Some(log) = &self.0.log else { return };
        let new_reason = {
            let mut reasons = lock(&self.0.reasons);
            let last = match &record.reason {
                Some(reason) => reasons.insert(record.upstream, reason.clone()),
                // The proxy refused the call, or the caller gave up. Neither says that the reason
                // no longer applies.
                None if record.is_own_error || record.status == 0 => None,
                None => reasons.remove(record.upstream),
            };
            record.reason.as_deref().filter(|reason| last.as_deref() != Some(*reason))
        };
        let line = (self.0.logged == Logged::All).then(|| record.line());
        let reason =
            new_reason.map(|reason| format!("sitecore-auth: {}: {reason}", record.upstream));
        let lines: Vec<_> = line.into_iter().chain(reason).collect();
        if !lines.is_empty() {
            log.write(lines.join("\n"));
        }
    }

    fn end(&self, record: Record) {
        // A call that was refused does not keep the proxy alive.
        if !record.upstream.is_empty() {
            *lock(&self.0.last_activity) = Instant::now();
        }
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.log(&record);
        let mut latest = lock(&self.0.latest);
        if latest.len() == KEPT {
            latest.pop_front();
        }
        latest.push_back(record);
    }
}

impl Record {
    /// Returns the line of the log.
    fn line(&self) -> String {
        let upstream = if self.upstream.is_empty() { "-" } else { self.upstream };
        let at = self.at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let Self { method, path, status, milliseconds, .. } = self;
        format!("{at} {method} {upstream} {path} {status} {milliseconds} ms")
    }
}

/// A call in progress.
#[derive(Debug)]
pub(crate) struct Call {
    records: Records,
    started: Instant,
    /// When the request was ready, and a token was asked for.
    asked: Option<Instant>,
    pub(crate) sent: Sent,
    record: Record,
}

impl Call {
    pub(crate) fn set_upstream(&mut self, name: &'static str) {
        self.record.upstream = name;
    }

    /// Records that the request is ready. From here on, it waits for a token.
    pub(crate) fn ask_for_token(&mut self) {
        self.asked = Some(Instant::now());
    }

    pub(crate) fn set_status(&mut self, status: StatusCode, is_own_error: bool) {
        self.record.status = status.as_u16();
        self.record.is_own_error = is_own_error;
    }

    /// Records why the call failed, for the operator of the proxy.
    pub(crate) fn explain(&mut self, reason: &str) {
        self.record.reason = Some(printable(reason));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut record = mem::take(&mut self.record);
        record.milliseconds = millis(self.started.elapsed());
        if let Some(asked) = self.asked {
            let ended_waiting = self.sent.first().unwrap_or_else(Instant::now);
            record.waited_milliseconds = millis(ended_waiting - asked);
        }
        record.is_replayed = self.sent.is_replayed();
        self.records.end(record);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
