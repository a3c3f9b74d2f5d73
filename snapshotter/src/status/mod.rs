//! `status`: what the daemon holds, asked for and shown.

mod client;
mod figures;
mod originals;
mod server;
mod show;

pub use client::{StatusError, fetch};
pub use server::StatusService;
pub use show::{json, text};
