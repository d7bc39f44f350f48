//! Where the current token is stored, so that threads can read it without contention.
//!
//! Cloning a header increments two reference counts: the token's and its text's. Threads that share
//! a counter contend for its cache line. The slot therefore holds several copies of the token, each
//! with counters of its own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwapOption;

use crate::token::Token;

/// The number of copies. If there are more threads, some share a copy. Each copy takes half a
/// kilobyte.
const SHARDS: usize = 4;

/// A slot for a token.
#[derive(Default)]
pub(super) struct TokenSlot(ArcSwapOption<[Token; SHARDS]>);

impl TokenSlot {
    /// Returns this thread's copy of the token. Never waits.
    #[inline]
    pub(super) fn load(&self) -> Option<Token> {
        self.0.load().as_ref().map(|shards| shards[shard_index()].clone())
    }

    pub(super) fn store(&self, token: &Token) {
        let shards = std::array::from_fn(|_| token.unshared());
        self.0.store(Some(Arc::new(shards)));
    }
}

/// Returns the index of this thread's copy.
#[inline]
fn shard_index() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    INDEX.with(|index| *index)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread, time::Duration};

    use super::*;

    #[test]
    fn threads_use_different_copies_that_share_the_text() {
        let slot = TokenSlot::default();
        let token = Token::bearer("a-token", Duration::from_secs(60)).expect("a token");
        slot.store(&token);
        let copy_and_text = || {
            let token = slot.load().expect("a stored token");
            let text = token.header().1.as_bytes().as_ptr();
            (Arc::as_ptr(&token.0) as usize, text as usize)
        };
        let (copies, texts): (HashSet<_>, HashSet<_>) = thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(copy_and_text)).collect();
            let loaded = threads.into_iter().map(|thread| thread.join());
            loaded.map(|loaded| loaded.expect("no panic")).unzip()
        });
        // Threads of other tests may take an index in between.
        assert!(copies.len() > 1, "all threads use the same copy");
        assert_eq!(texts.len(), 1, "the text was copied");
    }
}
