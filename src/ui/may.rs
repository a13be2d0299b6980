//! What the caller may do in a unit, and why not.

/// Each is none where the caller may do it, as far as Consul tells; else why not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct May {
    /// Write a deploy request.
    pub deploy: Option<String>,
    /// End the deploy that runs.
    pub abort: Option<String>,
    /// Freeze and unfreeze.
    pub freeze: Option<String>,
    /// Mark builds bad and good.
    pub mark: Option<String>,
}
