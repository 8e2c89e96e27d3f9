//! How states look: a symbol for text, a glyph and a border for drawings, and colours after Okabe and Ito, which people
//! with any colour vision can tell apart. No two states share a symbol or a border, so greyscale will do.
use crate::engine::state::StepState;

pub struct Look {
    /// Of one column in a terminal.
    pub symbol: &'static str,
    /// Of the stripe and the border, by daylight and in the dark.
    pub strong: [&'static str; 2],
    /// Of the area, by daylight and in the dark.
    pub tint: [&'static str; 2],
    /// Of the border, as stroke-width and stroke-dasharray.
    pub border: (f64, &'static str),
    /// Strokes of a white sign in a square from -6 to 6.
    pub glyph: &'static str,
}

pub fn look(state: StepState) -> Look {
    match state {
        StepState::Pending => Look {
            symbol: "○",
            strong: ["#626b77", "#9aa5b1"],
            tint: ["#f4f5f7", "#22272e"],
            border: (1.25, "5 4"),
            glyph: "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0",
        },
        StepState::InProgress => Look {
            symbol: "▶",
            strong: ["#0072b2", "#4aa8e0"],
            tint: ["#e3f1fa", "#10293a"],
            border: (2.5, ""),
            glyph: "M-3.5-5L5 0L-3.5 5Z",
        },
        StepState::Complete => Look {
            symbol: "✓",
            strong: ["#00805d", "#35b98d"],
            tint: ["#e4f5ef", "#0d2d24"],
            border: (1.25, ""),
            glyph: "M-5.5 0.5L-1.5 4.5L5.5-4.5",
        },
        StepState::Error => Look {
            symbol: "✗",
            strong: ["#c44601", "#f5793a"],
            tint: ["#fdece2", "#3a1d0c"],
            border: (2.5, "12 3"),
            glyph: "M-4.5-4.5L4.5 4.5M4.5-4.5L-4.5 4.5",
        },
        StepState::Cancelled => Look {
            symbol: "⊘",
            strong: ["#3d444d", "#7d8793"],
            tint: ["#e9ebee", "#181c21"],
            border: (1.5, "1.5 3.5"),
            glyph: "M5.5 0A5.5 5.5 0 1 1-5.5 0A5.5 5.5 0 1 1 5.5 0M-3.8 3.8L3.8-3.8",
        },
        StepState::ResolvedManually => Look {
            symbol: "✎",
            strong: ["#a1477f", "#d68abb"],
            tint: ["#f9e9f3", "#351a2c"],
            border: (1.5, "10 3 2 3"),
            glyph: "M-5 5L-4 1.5L3-5.5L5.5-3L-1.5 4ZM-4 1.5L-1.5 4",
        },
        StepState::Skipped => Look {
            symbol: "»",
            strong: ["#8a6100", "#d9a52b"],
            tint: ["#faf3df", "#30260d"],
            border: (1.25, "2.5 2.5"),
            glyph: "M-5-4.5L-0.5 0L-5 4.5M0.5-4.5L5 0L0.5 4.5",
        },
    }
}

/// The steps of a template, which have no state.
pub const PLAIN: Look = Look {
    symbol: "·",
    strong: ["#3f5872", "#8fa9c4"],
    tint: ["#eef3f8", "#1b2633"],
    border: (1.25, ""),
    glyph: "M-4 0A4 4 0 0 0 4 0A4 4 0 0 0-4 0",
};

/// The class of a step's box.
pub fn class(state: Option<StepState>) -> &'static str {
    state.map_or("step", StepState::as_str)
}
