//! The token held, so that threads that read it at once do not wait for each other.
//!
//! Each header costs its token two counts of references, one for the token and one for its text. Where all threads count
//! in one place, they take turns at it; so there are some copies of the token, which count each for itself.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use arc_swap::ArcSwapOption;

use crate::Token;

/// More threads than this share a copy; each copy costs half a kilobyte.
const COPIES: usize = 4;

/// A place for a token.
#[derive(Default)]
pub(super) struct Held(ArcSwapOption<[Token; COPIES]>);

impl Held {
    /// Returns this thread's copy of the token. Never waits.
    #[inline]
    pub(super) fn load(&self) -> Option<Token> {
        self.0.load().as_ref().map(|copies| copies[place()].clone())
    }

    pub(super) fn store(&self, token: &Token) {
        let copies = std::array::from_fn(|_| token.copy());
        self.0.store(Some(Arc::new(copies)));
    }
}

/// Which copy is this thread's.
#[inline]
fn place() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % COPIES;
    }
    PLACE.with(|place| *place)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread, time::Duration};

    use super::*;

    #[test]
    fn threads_count_their_references_apart_and_share_the_text() {
        let held = Held::default();
        let token = Token::bearer("a-token", Duration::from_secs(60)).expect("a token");
        held.store(&token);
        let copy_and_text = || {
            let token = held.load().expect("it was stored");
            let text = token.header().1.as_bytes().as_ptr();
            (Arc::as_ptr(&token.0) as usize, text as usize)
        };
        let (copies, texts): (HashSet<_>, HashSet<_>) = thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(copy_and_text)).collect();
            let loaded = threads.into_iter().map(|thread| thread.join());
            loaded.map(|loaded| loaded.expect("no panic")).unzip()
        });
        // Other tests' threads may come between.
        assert!(copies.len() > 1, "all in one place");
        assert_eq!(texts.len(), 1, "the text was copied");
    }
}
