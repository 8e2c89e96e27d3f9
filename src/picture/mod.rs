//! Pictures of tasks and templates. Pure, as the engine is: no pgrx, no clock, no SQL. It draws what the store has read
//! and decides nothing about it, which is why it is no part of the engine, whose states, times and graph it uses.
//!
//! In: one `model`, and a file for each format. Out: where rows come from. Nothing here recurses over a graph. Every name
//! and every text of a user passes `legible` before it is drawn.

mod dot;
pub mod gantt;
mod html;
pub mod layout;
pub mod legible;
mod look;
mod mermaid;
pub mod model;
mod svg;
mod text;

use model::Picture;

/// What a picture is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Mermaid,
    Dot,
    Svg,
    Html,
}

impl Format {
    pub const ALL: [Self; 5] = [Self::Text, Self::Mermaid, Self::Dot, Self::Svg, Self::Html];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Mermaid => "mermaid",
            Self::Dot => "dot",
            Self::Svg => "svg",
            Self::Html => "html",
        }
    }

    pub fn parse(text: &str) -> Result<Self, PictureError> {
        let unknown = || PictureError::UnknownFormat { format: text.to_owned() };
        Self::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(unknown)
    }
}

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("unknown format")]
    UnknownFormat { format: String },
    #[error("graph is too large to be drawn")]
    TooLarge { what: &'static str, count: usize, most: usize },
}

impl PictureError {
    /// The values behind the message.
    pub fn detail(&self) -> String {
        match self {
            Self::UnknownFormat { format } => format!("The format is \"{format}\"."),
            Self::TooLarge { what, count, most } => format!("It has {count} {what}, more than {most}."),
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::UnknownFormat { .. } => "The formats are text, mermaid, dot, svg and html.",
            Self::TooLarge { .. } => "Use the format text; mermaid and dot have no such limit either.",
        }
    }
}

pub fn render(picture: &Picture, format: Format) -> Result<String, PictureError> {
    match format {
        Format::Text => Ok(text::render(picture)),
        Format::Mermaid => Ok(mermaid::render(picture)),
        Format::Dot => Ok(dot::render(picture)),
        Format::Svg => svg::render(picture),
        Format::Html => html::render(picture),
    }
}
