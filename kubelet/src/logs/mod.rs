//! Container logs: the runtime's file format, reading, and rotation.

mod line;
mod read;
mod rotate;

pub(crate) use line::{Line, Stream};
pub(crate) use read::{Options, last_words, read};
pub(crate) use rotate::rotate;
