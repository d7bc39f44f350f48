//! Where the current token is stored, so that threads can read it without contention.
//!
//! Cloning a header increments two reference counts: the token's and its text's. Threads that share
//! a counter contend for its cache line. The slot therefore holds several copies of the token, each
//! with counters of its own.

use std::{
    array,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use crossbeam_utils::CachePadded;

use super::decision::View;
use crate::{
    clock::Moment,
    token::{Token, sensitive},
};

/// The largest number of copies. If there are more threads, some share a copy. Each copy takes
/// about 640 bytes.
const SHARDS: usize = 4;

/// A slot for the current token.
#[derive(Default)]
pub(super) struct TokenSlot(ArcSwapOption<Published>);

struct Published {
    /// On a machine with fewer cores, the last ones are not used.
    shards: [Token; SHARDS],
    /// Until then, the token is usable and nothing is due.
    look_at: Moment,
}

impl TokenSlot {
    /// Returns the token if it is usable and nothing is due at this time. Never waits.
    #[inline]
    pub(super) fn load(&self, now: Moment) -> Option<Token> {
        let published = self.0.load();
        let published = published.as_ref()?;
        (!now.has_reached(published.look_at)).then(|| published.shards[shard_index()].clone())
    }

    /// Returns the token, usable or not. Never waits.
    pub(super) fn latest(&self) -> Option<Token> {
        self.0.load().as_ref().map(|published| published.shards[shard_index()].clone())
    }

    /// Publishes the token, unless that changes nothing.
    pub(super) fn publish(&self, view: &View) {
        let is_published = |old: &Arc<Published>| {
            let token = &old.shards[0];
            token.is_same(&view.token)
                && (token.is_rejected(), old.look_at) == (view.is_rejected, view.look_at)
        };
        if self.0.load().as_ref().is_some_and(is_published) {
            return;
        }
        let shards = array::from_fn(|index| match index < shard_count() {
            true => view.token.unshared(view.is_rejected),
            false => view.token.clone(),
        });
        self.0.store(Some(Arc::new(Published { shards, look_at: view.look_at })));
    }
}

impl Token {
    /// Returns a copy that shares the text but counts its references separately.
    fn unshared(&self, is_rejected: bool) -> Self {
        struct OwnLine(CachePadded<Bytes>);
        impl AsRef<[u8]> for OwnLine {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let mut inner = (*self.0).clone();
        inner.rejected = is_rejected;
        let text = OwnLine(CachePadded::new(inner.text.clone()));
        // Cannot fail, because the same text already is a header value.
        if let Ok(value) = sensitive(Bytes::from_owner(text)) {
            inner.value = value;
        }
        Self(Arc::new(inner))
    }
}

/// Returns the number of copies in use: one per core, but at most `SHARDS`.
fn shard_count() -> usize {
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| available_parallelism().map_or(SHARDS, |cores| SHARDS.min(cores.get())));
    *COUNT
}

/// Returns the index of this thread's copy.
#[inline]
fn shard_index() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: usize = THREADS.fetch_add(1, Ordering::Relaxed) % shard_count();
    }
    INDEX.with(|index| *index)
}
