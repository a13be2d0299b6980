//! What a state means for whoever looks at it: the colour and shape of its badge.

/// What a state means for whoever looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Under way.
    Busy,
    /// Somebody should look.
    Warn,
    /// It is wrong.
    Bad,
    /// Neither.
    Quiet,
}

impl Tone {
    /// Its class in the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }

    /// Its shape, for whoever does not tell the colours apart.
    pub(super) const fn shape(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Busy => "◐",
            Self::Warn => "▲",
            Self::Bad => "✕",
            Self::Quiet => "○",
        }
    }
}
