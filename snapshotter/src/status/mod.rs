//! `status`: what the daemon holds, asked for and shown.

mod client;
mod figures;
mod health;
mod images;
mod originals;
mod server;
mod show;
mod watch;
mod words;

pub use client::{StatusError, fetch};
pub use health::Health;
pub use images::{Image, image_of_chain, images};
pub use server::StatusService;
pub use show::{json, line, text};
pub use watch::watch;
