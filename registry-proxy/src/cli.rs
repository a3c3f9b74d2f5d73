//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use jaunt_formats::Reference;

use crate::image::Platform;

/// Makes container images start before they have arrived: the registry's side.
#[derive(Debug, Parser)]
#[command(name = "jaunt-proxy", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Convert an image and push its launch artifact beside it
    Convert(ConvertArgs),
    /// Check a converted image: every span, every layer, the whole tree
    Verify(ReadArgs),
    /// Show what a converted image consists of
    Inspect(ReadArgs),
}

#[derive(Debug, Args)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub common: Common,
    /// How the conversion is published
    #[arg(long, value_enum, default_value_t = Mode::Attach)]
    pub mode: Mode,
    /// Copy the image here first, and convert the copy
    #[arg(long, value_name = "REF")]
    pub to: Option<Reference>,
    /// zstd's compression level
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// Layers converted at the same time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The image keeps its manifest, digest and signatures; a launch artifact is added
    Attach,
}

#[derive(Debug, Args)]
pub struct ReadArgs {
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Common {
    /// The image: host/name:tag or host/name@digest
    #[arg(value_name = "REF")]
    pub reference: Reference,
    /// Only these platforms of a multi-platform image: os/arch or os/arch/variant (repeatable)
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<Platform>,
    /// Speak plain HTTP with this registry (repeatable); loopback registries need no flag
    #[arg(long, value_name = "HOST")]
    pub plain_http: Vec<String>,
    /// Write the result to standard output as JSON, and all else to standard error
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        for bad in [
            &["convert"] as &[&str],
            &["convert", "not a reference"],
            &["convert", "--mode", "merge", "h.io/a"],
            &["convert", "--platform", "linux", "h.io/a"],
            &["inspect", "--to", "h.io/b", "h.io/a"],
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"jaunt-proxy").chain(bad)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}");
        }
    }
}
