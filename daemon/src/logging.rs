//! What goes to the log, and how: text for people or JSON for programs, on standard error.

use std::{io, str::FromStr};

use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one object a line.
    Json,
}

/// Changes what is logged while the daemon runs. Cheap to clone.
#[derive(Clone)]
pub struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why a level was not set.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// The text is no filter.
    #[error(
        "{text:?} is no log filter: expected a level as in `info`, or `target=level` pairs joined by commas"
    )]
    Unreadable {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        why: tracing_subscriber::filter::ParseError,
    },
    /// The subscriber is gone.
    #[error("the log cannot be changed")]
    Gone(#[source] reload::Error),
    /// Somebody else logs already.
    #[error("the log is already set up")]
    Taken(#[source] tracing_subscriber::util::TryInitError),
}

// === impl LogLevel ===

impl LogLevel {
    /// Logs at this filter from now on.
    pub fn set(&self, text: &str) -> Result<(), LevelError> {
        self.filter.reload(parse(text)?).map_err(LevelError::Gone)
    }

    /// The filter in force.
    pub fn get(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

// === free functions ===

/// Sets up the log of this process.
pub fn start(format: Format, level: &str) -> Result<LogLevel, LevelError> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(false).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(LevelError::Taken)?;
    Ok(LogLevel { filter: handle })
}

fn parse(text: &str) -> Result<EnvFilter, LevelError> {
    let unreadable = |why| LevelError::Unreadable {
        text: text.chars().take(80).collect(),
        why,
    };
    EnvFilter::from_str(text).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_pairs() {
        for (text, good) in [
            ("info", true),
            ("warn,inboxgrove=debug", true),
            ("inboxgrove_store=trace", true),
            ("a=b=c", false),
        ] {
            assert_eq!(parse(text).is_ok(), good, "{text}");
        }
    }
}
