//! The command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use jaunt_distribution::{Client, ClientCertificate, ClientConfig, HostSettings, TlsSettings};
use jaunt_formats::Platform;

use crate::artifact;
use crate::examples;
use crate::place::{ImageName, NameError};

/// Makes container images start before they have arrived: the registry's side.
#[derive(Debug, Parser)]
#[command(name = "jaunt-proxy", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Refuses what the grammar allows and makes no sense.
    pub fn checked(self) -> Result<Self, clap::Error> {
        if let Command::Convert(args @ ConvertArgs { all_tags: true, .. }) = &self.command {
            let names = std::iter::once(&args.common.reference).chain(&args.to);
            if let Some(one) = names.into_iter().find(|name| name.is_one_image()) {
                return Err(nonsense(format!(
                    "--all-tags takes repositories, and {one} is one image of its own"
                )));
            }
        }
        let (target, written) = match &self.command {
            Command::Convert(ConvertArgs { mode: Mode::Replace, to: None, common, .. }) => {
                (Some(&common.reference), true)
            }
            Command::Convert(ConvertArgs { to, .. }) => (to.as_ref(), true),
            Command::Copy(CopyArgs { to, .. }) => (Some(to), true),
            // What stands under a tag of ours may have to be put right.
            Command::Revert(RevertArgs { common }) => (Some(&common.reference), false),
            Command::Optimize(_)
            | Command::Detach(_)
            | Command::Verify(_)
            | Command::Sign(_)
            | Command::Inspect(_)
            | Command::Completions { .. } => (None, false),
        };
        match target {
            Some(target) if target.digest().is_some() => {
                Err(nonsense(format!("{target} is a digest, and what is written needs a tag")))
            }
            Some(target) if written && artifact::is_of_another(&target.manifest_name()) => {
                Err(nonsense(format!(
                    "the tag of {target} is made of a digest: it is for what belongs to the manifest with that digest, \
                 and no image is written there"
                )))
            }
            _ => Ok(self),
        }
    }
}

/// A wrong use that no single argument is to blame for.
fn nonsense(what: String) -> clap::Error {
    Cli::command().error(clap::error::ErrorKind::ValueValidation, what)
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Convert an image and push its launch artifact beside it
    #[command(after_help = examples::CONVERT)]
    Convert(ConvertArgs),
    /// Give a replaced image's tag back what it named before
    #[command(after_help = examples::REVERT)]
    Revert(RevertArgs),
    /// Give a converted image a boot pack, made of traces of starts, or take it away
    #[command(after_help = examples::OPTIMIZE)]
    Optimize(OptimizeArgs),
    /// Remove an image's launch artifacts; the image stays
    #[command(after_help = examples::DETACH)]
    Detach(ReadArgs),
    /// Copy an image with all that refers to it: launch artifact, signatures, attestations
    #[command(after_help = examples::COPY)]
    Copy(CopyArgs),
    /// Check a converted image against the original, and say what differs: every span, every layer, the whole tree
    #[command(after_help = examples::VERIFY)]
    Verify(VerifyArgs),
    /// Check a converted image as verify does, and sign its launch artifacts as cosign does
    #[command(after_help = examples::SIGN)]
    Sign(SignArgs),
    /// Show what an image consists of and who can read it lazily, or what a file is that a conversion made
    #[command(after_help = examples::INSPECT)]
    Inspect(InspectArgs),
    /// Print a shell's completions of this command line
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Clone, Debug, Args)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub platforms: Platforms,
    /// How the conversion is published
    #[arg(long, value_enum, default_value_t = Mode::Attach)]
    pub mode: Mode,
    /// Copy the image here first, and convert the copy; with `replace`, the tag to write
    #[arg(long, value_name = "REF")]
    pub to: Option<ImageName>,
    /// Convert every tag of the repository that REF names, but for our own and cosign's
    #[arg(long)]
    pub all_tags: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace a signed image, too: the new manifest has no signature
    #[arg(long)]
    pub force: bool,
    /// zstd's compression level
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: i32,
    /// Layers converted at the same time
    #[arg(long, alias = "jobs", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// Take layers that were converted there, too, before converting any: a repository, or oci:DIR (repeatable)
    #[arg(long, value_name = "REPO")]
    pub reuse_from: Vec<ImageName>,
    /// The image that this one follows, with whose boot pack this one's begins [default: what looks like it in the repository]
    #[arg(long, value_name = "REF", conflicts_with = "all_tags")]
    pub predecessor: Option<ImageName>,
    /// Make no boot pack; one of this very image that was learnt stays
    #[arg(long, conflicts_with = "predecessor")]
    pub no_boot_pack: bool,
    /// MiB of files that a new boot pack may hold; a learnt one of this very image stays as it is [default: 256 with what was learnt of another image, else 64]
    #[arg(long, value_name = "MIB", conflicts_with = "no_boot_pack", value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub max_boot_mib: Option<u64>,
    /// Sign the launch artifacts with this key: PEM, or cosign's, whose password is in COSIGN_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The image keeps its manifest, digest and signatures; a launch artifact is added
    Attach,
    /// The tag moves to a manifest whose layers are the converted ones; another tag keeps the original
    Replace,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("source").required(true).multiple(true).args(["trace", "gather", "from", "foresee", "drop"])))]
pub struct OptimizeArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub platforms: Platforms,
    /// A trace of a start, as `jaunt-snapshotter trace` gives it (repeatable)
    #[arg(long, value_name = "FILE")]
    pub trace: Vec<PathBuf>,
    /// The traces that nodes left beside the image count as well, and what was learnt of those before as one more
    #[arg(long)]
    pub gather: bool,
    /// Delete the traces that nodes left, once the pack is made of them
    #[arg(long, requires = "gather")]
    pub consume: bool,
    /// An image that this one follows: what its boot pack holds counts as a trace
    #[arg(long, value_name = "REF")]
    pub from: Option<ImageName>,
    /// What the image's command needs, as far as the image tells, counts as a trace
    #[arg(long)]
    pub foresee: bool,
    /// Take the boot pack away
    #[arg(long, conflicts_with_all = ["trace", "gather", "from", "foresee"])]
    pub drop: bool,
    /// MiB of files that a pack may hold
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub max_mib: u64,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Sign the new launch artifact with this key, after reading the old one back: PEM, or cosign's
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CopyArgs {
    #[command(flatten)]
    pub common: Common,
    /// Where to: host/name:tag, or oci:DIR[:tag]
    #[arg(value_name = "TO")]
    pub to: ImageName,
}

#[derive(Debug, Args)]
pub struct RevertArgs {
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct ReadArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub platforms: Platforms,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// An image, as elsewhere; or a file, if one is there or it starts with ./, ../ or /: a launch index or a layer
    #[arg(value_name = "REF|FILE")]
    pub target: InspectTarget,
    #[command(flatten)]
    pub platforms: Platforms,
    #[command(flatten)]
    pub connection: Connection,
    /// Write the result to standard output as JSON, and all else to standard error
    #[arg(long)]
    pub json: bool,
}

/// What `inspect` looks at.
#[derive(Clone, Debug)]
pub enum InspectTarget {
    Image(ImageName),
    File(PathBuf),
}

impl FromStr for InspectTarget {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_path = ["./", "../", "/"].iter().any(|start| text.starts_with(start));
        if is_path || Path::new(text).is_file() {
            return Ok(Self::File(text.into()));
        }
        text.parse().map(Self::Image)
    }
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub platforms: Platforms,
    /// Launch artifacts must be signed by this public key in PEM, or by another one given (repeatable)
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Read the blobs that were converted, too: they must give the same tars
    #[arg(long)]
    pub originals: bool,
    /// Layers read at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
}

#[derive(Debug, Args)]
pub struct SignArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub platforms: Platforms,
    /// The private key: PEM, or cosign's, whose password is in COSIGN_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub sign_key: PathBuf,
}

/// Which images of a multi-platform image.
#[derive(Clone, Debug, Args)]
pub struct Platforms {
    /// Only these platforms of a multi-platform image: os/arch or os/arch/variant (repeatable)
    #[arg(long = "platform", value_name = "PLATFORM")]
    pub wanted: Vec<Platform>,
}

#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The image: host/name:tag, host/name@digest, or oci:DIR[:tag] for an OCI layout on disk
    #[arg(value_name = "REF")]
    pub reference: ImageName,
    #[command(flatten)]
    pub connection: Connection,
    /// Write the result to standard output as JSON, and all else to standard error
    #[arg(long)]
    pub json: bool,
}

/// How registries are connected to.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// Speak plain HTTP with this registry (repeatable); loopback registries need no flag
    #[arg(long, value_name = "HOST")]
    pub plain_http: Vec<String>,
    /// Trust the authorities in this PEM file besides the system's
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The client certificate for registries that want one: a PEM file
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, unless --tls-cert has both
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates by registry, in Docker's layout or containerd's
    #[arg(long, value_name = "DIR", default_value = "/etc/docker/certs.d")]
    pub certs_dir: PathBuf,
}

impl Connection {
    /// A client for all of a command. It asks no mirror: whoever writes must see what is there.
    pub fn client(self) -> Result<Client, jaunt_distribution::Error> {
        let certificate =
            self.tls_cert.map(|certificate| ClientCertificate { certificate, key: self.tls_key });
        let tls = TlsSettings {
            authorities: self.tls_ca.into_iter().collect(),
            client: certificate.into_iter().collect(),
            skip_verify: false,
        };
        let config = ClientConfig {
            plain_http: self.plain_http.into_iter().collect(),
            hosts: HostSettings { directories: vec![self.certs_dir], tls, ..HostSettings::default() },
            user_agent: concat!("jaunt-proxy/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..ClientConfig::default()
        };
        Ok(Client::new(config)?.without_mirrors())
    }
}

impl Command {
    /// How this command connects, if it does.
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Convert(ConvertArgs { common, .. })
            | Self::Revert(RevertArgs { common })
            | Self::Copy(CopyArgs { common, .. })
            | Self::Optimize(OptimizeArgs { common, .. })
            | Self::Detach(ReadArgs { common, .. })
            | Self::Verify(VerifyArgs { common, .. })
            | Self::Sign(SignArgs { common, .. }) => Some(&common.connection),
            Self::Inspect(InspectArgs { connection, .. }) => Some(connection),
            Self::Completions { .. } => None,
        }
    }
}

/// What a shell reads to complete this command line.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "jaunt-proxy", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let script = String::from_utf8(completions(Shell::Bash)).unwrap();
        assert!(script.contains("optimize") && script.contains("--plain-http"), "{script}");
    }

    #[test]
    fn every_command_shows_how_it_is_used_and_that_is_so() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help =
                command.get_after_help().unwrap_or_else(|| panic!("{name} has no example")).to_string();
            let lines: Vec<&str> = help.strip_prefix("Examples:\n").unwrap().lines().collect();
            for line in &lines {
                let parsed = Cli::try_parse_from(line.split_whitespace()).and_then(Cli::checked);
                assert!(parsed.is_ok() && line.contains(name), "{line}: {}", parsed.unwrap_err());
            }
            assert!(!lines.is_empty(), "{name}");
        }
    }

    #[test]
    fn replace_needs_a_tag_to_move() {
        let digest = format!("h.io/a@sha256:{}", "a".repeat(64));
        let parse = |args: &[&str]| {
            let args = [&["jaunt-proxy", "convert", "--mode", "replace"], args].concat();
            Cli::try_parse_from(args).and_then(Cli::checked).map_err(|error| error.exit_code())
        };
        assert!(matches!(parse(&[&digest]), Err(2)) && matches!(parse(&["--to", &digest, "h.io/a"]), Err(2)));
        assert!(parse(&["h.io/a"]).is_ok() && parse(&["--to", "h.io/b", &digest]).is_ok());
    }

    #[test]
    fn no_image_is_written_under_a_tag_that_keeps_something_else() {
        let hex = "a".repeat(64);
        let parse = |args: &[String]| {
            let args = std::iter::once("jaunt-proxy").chain(args.iter().map(String::as_str));
            Cli::try_parse_from(args).and_then(Cli::checked).map_err(|error| error.exit_code())
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for kind in [".original", ".jaunt", ".jaunt-partial", ".sig", ""] {
            let kept = format!("h.io/a:sha256-{hex}{kind}");
            for refused in ["convert --mode replace KEPT", "convert --to KEPT h.io/a", "copy h.io/a KEPT"] {
                let outcome = parse(&words(&refused.replace("KEPT", &kept)));
                assert!(matches!(outcome, Err(2)), "{refused} {kept}");
            }
            for allowed in ["revert KEPT", "convert KEPT", "inspect KEPT", "copy KEPT h.io/b"] {
                assert!(parse(&words(&allowed.replace("KEPT", &kept))).is_ok(), "{allowed} {kept}");
            }
        }
    }

    #[test]
    fn all_tags_are_of_a_repository() {
        let parse = |text: &str| {
            let args = std::iter::once("jaunt-proxy").chain(text.split(' '));
            Cli::try_parse_from(args).and_then(Cli::checked).map_err(|error| error.exit_code())
        };
        for refused in ["h.io/a:v1", "oci:d:v1", "--to h.io/b:v1 h.io/a", "--to oci:d:v1 h.io/a"] {
            assert!(matches!(parse(&format!("convert --all-tags {refused}")), Err(2)), "{refused}");
        }
        assert!(parse("convert --all-tags --to oci:d h.io/a").is_ok());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for bad in [
            &["convert"] as &[&str],
            &["convert", "not a reference"],
            &["convert", "--mode", "merge", "h.io/a"],
            &["convert", "--platform", "linux", "h.io/a"],
            &["inspect", "--to", "h.io/b", "h.io/a"],
            &["convert", "--concurrency", "0", "h.io/a"],
            &["inspect", "--tls-key", "k", "h.io/a"],
        ] {
            let error = Cli::try_parse_from(std::iter::once(&"jaunt-proxy").chain(bad)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}");
        }
    }
}
