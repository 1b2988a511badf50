//! Messages: writing them and reading what strangers wrote.
//!
//! What goes into a header is of a type that cannot end a line, so no text a person typed can add a header or
//! a recipient. Reading has limits on everything and believes nothing.

mod compose;
mod inspect;

pub use compose::{
    ComposeError, Draft, HeaderText, Mailbox, MessageIdText, TextError, Unsubscribe,
};
pub use inspect::{InspectError, Inspection, SpamVerdict, inspect};
