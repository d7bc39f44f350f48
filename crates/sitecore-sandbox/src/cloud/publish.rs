//! Publishing jobs, which progress with each status request.

/// How many status requests it takes until a job is done.
const LOOKS: u32 = 2;

/// A publishing job.
pub(crate) struct Publish {
    pub(crate) id: String,
    pub(crate) roots: Vec<String>,
    pub(crate) is_canceled: bool,
    looks_left: u32,
}

impl Publish {
    pub(crate) fn new(id: String, roots: Vec<String>) -> Self {
        Self { id, roots, is_canceled: false, looks_left: LOOKS }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.looks_left == 0
    }

    /// Advances the job. Returns `true` if it is done now and was not before.
    pub(crate) fn advance(&mut self) -> bool {
        if self.is_canceled || self.is_done() {
            return false;
        }
        self.looks_left -= 1;
        self.is_done()
    }
}
