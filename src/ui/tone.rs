//! The tone of a state, which decides the colour and shape of its badge.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Busy,
    Warn,
    Bad,
    Quiet,
}

impl Tone {
    /// The class in the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Busy => "busy",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }

    /// The shape, for people who cannot distinguish the colours.
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
