//! Deployments, which progress with each status request.

/// How many status requests it takes until a deployment is complete.
const LOOKS: u64 = 2;

/// A deployment.
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) environment_id: String,
    pub(crate) is_canceled: bool,
    /// `None` until it is started.
    looks_left: Option<u64>,
}

/// How far a deployment has got.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    Created,
    Building,
    Deploying,
    Completed,
}

impl Deployment {
    pub(crate) fn new(id: String, environment_id: String) -> Self {
        Self { id, environment_id, is_canceled: false, looks_left: None }
    }

    /// Starts the deployment. Returns `false` if that is not possible any more.
    pub(crate) fn start(&mut self) -> bool {
        let can_start = self.looks_left.is_none() && !self.is_canceled;
        if can_start {
            self.looks_left = Some(LOOKS);
        }
        can_start
    }

    /// Moves a started deployment on, unless it was cancelled.
    pub(crate) fn advance(&mut self) {
        if !self.is_canceled {
            self.looks_left = self.looks_left.map(|looks| looks.saturating_sub(1));
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        match self.looks_left {
            None => Progress::Created,
            Some(0) => Progress::Completed,
            Some(1) => Progress::Deploying,
            Some(_) => Progress::Building,
        }
    }
}
