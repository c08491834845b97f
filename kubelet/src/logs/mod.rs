//! Container logs: the runtime's file format, reading, and rotation.

mod line;
mod read;
mod rotate;

pub use line::{Line, Stream};
pub use read::{Options, last_words, read};
pub use rotate::rotate;
