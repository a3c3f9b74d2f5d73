//! The zstd seekable format, version 0.1.0: a table, in a skippable frame at the end of a blob, of
//! every frame's two lengths, by which any reader of the format finds its way.

mod layout;
mod reader;
mod writer;

pub use layout::{FOOTER_LEN, Frame};
pub use reader::{Footer, SeekTableError, footer, parse};
pub use writer::SeekTable;
