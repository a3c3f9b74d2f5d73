//! Logs go to standard error; `RUST_LOG` chooses what is logged.
//!
//! Libraries that use the `log` crate, fuser among them, are heard as well.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogFormat;

/// `fuser::reply` calls it an error when a request's caller was killed before the answer came.
const DEFAULT_FILTER: &str = "info,fuser::reply=off";

/// Sets up logging for the process; a second call changes nothing.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
}
