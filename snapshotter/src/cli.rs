//! The command line: what can be asked for, and what becomes of it.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use jaunt_formats::Reference;
use jaunt_layerfs::fuse::store_pages;

use crate::boot::{self, TraceArgs, TraceCommandError};
use crate::check::{self, CheckArgs, CheckCommandError};
use crate::config::{Config, ConfigError, KernelFeature, LogFormat, RegistryFlags, Settings};
use crate::fallback::error_chain;
use crate::install::command::{InstallArgs, InstallCommandError, UninstallArgs};
use crate::mount_command::{self, MountArgs, MountCommandError, PointError, UmountArgs};
use crate::prune::{self, PruneCommandError};
use crate::{daemon, examples, logging, originals, pull, status, supervisor};

/// What `check` exits with when it has found a fault.
const FOUND: u8 = 3;

/// containerd snapshotter that starts containers before their image has arrived.
#[derive(Debug, Parser)]
#[command(name = "jaunt-snapshotter", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    #[command(after_help = examples::SERVE)]
    Serve(ServeArgs),
    #[command(hide = true)]
    Push {
        /// Where the chain's root directory is mounted.
        root: PathBuf,
    },
    /// Serve what the supervisor hands over; started by `serve`.
    #[command(hide = true)]
    Worker {
        /// Complete settings, in JSON.
        settings: String,
    },
    /// Have containerd pull an image lazily.
    #[command(after_help = examples::PULL)]
    Pull(PullArgs),
    /// Bring the original layers of a lazily pulled image to containerd's content store, for saving and pushing it.
    #[command(after_help = examples::MATERIALISE)]
    Materialise(MaterialiseArgs),
    /// Show what the daemon holds, and why what is not lazy is not.
    #[command(after_help = examples::STATUS)]
    Status(StatusArgs),
    /// Remove from the store what no image here needs.
    #[command(after_help = examples::PRUNE)]
    Prune(PruneArgs),
    /// Check the state directory, and repair what can be.
    #[command(after_help = examples::CHECK)]
    Check(CheckArgs),
    /// Make containerd use this snapshotter: program, unit and configuration.
    #[command(after_help = examples::INSTALL)]
    Install(InstallArgs),
    /// Undo what `install` did, or drain the node.
    #[command(after_help = examples::UNINSTALL)]
    Uninstall(UninstallArgs),
    /// Mount an image on a directory and serve it until Ctrl-C, without containerd.
    #[command(after_help = examples::MOUNT)]
    Mount(MountArgs),
    /// Take out what starts were seen to touch first, for `jaunt-proxy optimize`.
    #[command(after_help = examples::TRACE)]
    Trace(TraceArgs),
    /// Unmount what `mount` has mounted.
    #[command(after_help = examples::UMOUNT)]
    Umount(UmountArgs),
    /// Print a shell's completions of this command line.
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Configuration file [default: /etc/jaunt/snapshotter.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state is kept [default: /var/lib/jaunt]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where mounts and the socket are [default: /run/jaunt]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Socket that containerd calls [default: snapshotter.sock in the run directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    registries: RegistryFlags,
    /// How logs look [default: text]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Args)]
struct PullArgs {
    /// containerd's socket
    #[arg(long, value_name = "PATH", default_value = "/run/containerd/containerd.sock")]
    address: PathBuf,
    /// containerd's namespace
    #[arg(long, default_value = "k8s.io")]
    namespace: String,
    /// Name of this snapshotter in containerd's configuration
    #[arg(long, value_name = "NAME", default_value = "jaunt")]
    snapshotter: String,
    /// The daemon's socket, if containerd does not name it
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The API of containerd's to pull through [default: the transfer service where it can pull lazily, else CRI]
    #[arg(long, value_enum)]
    through: Option<pull::Way>,
    /// Socket for CRI's image calls [default: containerd's]; that of the daemon's [credentials] tells it the login, too
    #[arg(long, value_name = "PATH")]
    cri_address: Option<PathBuf>,
    /// Where containerd finds each registry's hosts.toml, for its transfer service; CRI has its own setting
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    hosts_dir: PathBuf,
    /// Print one JSON object at the end; progress goes to stderr
    #[arg(long)]
    json: bool,
    /// The image
    #[arg(value_name = "REF")]
    image: Reference,
}

#[derive(Debug, Args)]
struct MaterialiseArgs {
    /// containerd's socket [default: as the daemon is configured]
    #[arg(long, value_name = "PATH")]
    address: Option<PathBuf>,
    /// containerd's namespace: Docker's is moby, that of ctr and nerdctl default
    #[arg(long, default_value = "k8s.io")]
    namespace: String,
    /// The daemon's socket [default: as configured]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The image
    #[arg(value_name = "REF")]
    image: Reference,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The daemon's socket [default: as configured]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Configuration file [default: /etc/jaunt/snapshotter.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON: one object, or with --watch one a line each time
    #[arg(long)]
    json: bool,
    /// Show it again every so many seconds, until Ctrl-C: a screen on a terminal, else a line
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Configuration file [default: /etc/jaunt/snapshotter.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where state is kept [default: as configured]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The daemon's socket [default: as configured]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Also what images here have fetched, where nothing has it open: it is fetched again when it is needed
    #[arg(long)]
    all: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("worker: malformed settings")]
    Settings(#[from] serde_json::Error),
    #[error(transparent)]
    Supervisor(#[from] supervisor::SupervisorError),
    #[error(transparent)]
    Daemon(#[from] daemon::DaemonError),
    #[error(transparent)]
    Pull(#[from] pull::PullError),
    #[error(transparent)]
    Materialise(#[from] originals::MaterialiseError),
    #[error(transparent)]
    Status(#[from] status::StatusError),
    #[error(transparent)]
    Check(#[from] CheckCommandError),
    #[error(transparent)]
    Prune(#[from] PruneCommandError),
    #[error(transparent)]
    Install(#[from] InstallCommandError),
    #[error(transparent)]
    Mount(#[from] MountCommandError),
    #[error(transparent)]
    Umount(#[from] PointError),
    #[error(transparent)]
    Trace(#[from] TraceCommandError),
    #[error("cannot print")]
    Print(#[source] std::io::Error),
    #[error("cannot store pages")]
    Push(#[source] std::io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// Runs the command: 0 when it did what was asked, 1 when it failed, 3 when `check` found a fault; clap exits with 2 on
/// misuse.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Serve(args) => serve(args),
        Command::Worker { settings } => worker(&settings),
        Command::Push { root } => {
            store_pages(&root, io::stdin().lock(), io::stdout()).map_err(CommandError::Push)
        }
        Command::Pull(args) => run_pull(args),
        Command::Materialise(args) => run_materialise(args),
        Command::Status(args) => run_status(&args),
        Command::Prune(args) => run_prune(args),
        Command::Check(args) => return run_check(args).unwrap_or_else(|error| failed(&error)),
        Command::Install(args) => run_install(args),
        Command::Uninstall(args) => run_uninstall(args),
        Command::Mount(args) => run_mount(args),
        Command::Trace(args) => run_trace(&args),
        Command::Umount(args) => mount_command::umount(&args.point).map_err(CommandError::from),
        Command::Completions { shell } => completions(shell),
    };
    done.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &CommandError) -> ExitCode {
    eprintln!("jaunt-snapshotter: {}", error_chain(error));
    ExitCode::FAILURE
}

fn serve(args: ServeArgs) -> Result<(), CommandError> {
    let flags = Settings {
        root: args.root,
        run_dir: args.run_dir,
        socket: args.socket,
        log_format: args.log_format,
        ..Settings::default()
    };
    let settings = args.registries.over(Settings::read(args.config.as_deref())?);
    let config = settings.with_flags(flags).complete().with_keys_read().map_err(ConfigError::from)?;
    logging::init(config.log_format);
    let worker_args: Vec<OsString> = vec!["worker".into(), serde_json::to_string(&config)?.into()];
    let Config { root, run_dir, socket, avoid_kernel_features, .. } = config;
    let mut options = supervisor::Options::new(root, run_dir, socket, worker_args);
    if avoid_kernel_features.contains(&KernelFeature::Resend) {
        options.mount.features = options.mount.features.without_resend();
    }
    Ok(supervisor::run(options)?)
}

fn worker(settings: &str) -> Result<(), CommandError> {
    let config: Config = serde_json::from_str(settings)?;
    logging::init(config.log_format);
    Ok(daemon::run(&config)?)
}

fn run_pull(args: PullArgs) -> Result<(), CommandError> {
    logging::init(LogFormat::Text);
    let socket = match args.socket {
        Some(socket) => socket,
        None => Settings::read(None)?.socket(),
    };
    let request = pull::Request {
        address: args.address,
        namespace: args.namespace,
        snapshotter: args.snapshotter,
        image: args.image,
        socket,
        cri_address: args.cri_address,
        through: args.through,
        hosts_dir: args.hosts_dir,
        progress: if args.json { |line| eprintln!("{line}") } else { |line| println!("{line}") },
    };
    let pulled = runtime()?.block_on(pull::run(&request))?;
    match args.json {
        true => println!("{}", pulled.json()),
        false => println!("{pulled}"),
    }
    Ok(())
}

fn run_materialise(args: MaterialiseArgs) -> Result<(), CommandError> {
    let socket = match args.socket {
        Some(socket) => socket,
        None => Settings::read(None)?.socket(),
    };
    let MaterialiseArgs { address, namespace, image, .. } = args;
    let request = originals::Request { socket, containerd: address, namespace, image: image.to_string() };
    println!("{}", runtime()?.block_on(originals::run(&request))?);
    Ok(())
}

fn run_status(args: &StatusArgs) -> Result<(), CommandError> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => Settings::read(args.config.as_deref())?.socket(),
    };
    if let Some(seconds) = args.watch {
        let every = Duration::from_secs(seconds);
        return Ok(runtime()?.block_on(status::watch(&socket, every, args.json))?);
    }
    let answer = runtime()?.block_on(status::fetch(&socket))?;
    match args.json {
        true => println!("{}", status::json(&answer)),
        false => print!("{}", status::text(&answer, std::time::SystemTime::now())),
    }
    Ok(())
}

fn run_prune(args: PruneArgs) -> Result<(), CommandError> {
    let flags = Settings { root: args.root, socket: args.socket, ..Settings::default() };
    let config = Settings::read(args.config.as_deref())?.with_flags(flags).complete();
    let pruned = runtime()?.block_on(prune::prune_on(&config, args.all, args.dry_run))?;
    match args.json {
        true => println!("{}", prune::json(&pruned, args.dry_run)),
        false => print!("{}", prune::text(&pruned, args.dry_run)),
    }
    Ok(())
}

fn run_install(args: InstallArgs) -> Result<(), CommandError> {
    Ok(runtime()?.block_on(args.run())?)
}

fn run_uninstall(args: UninstallArgs) -> Result<(), CommandError> {
    Ok(runtime()?.block_on(args.run())?)
}

fn run_check(args: CheckArgs) -> Result<ExitCode, CommandError> {
    let report = runtime()?.block_on(check::command(args))?;
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

fn run_trace(args: &TraceArgs) -> Result<(), CommandError> {
    let root = match &args.root {
        Some(root) => root.clone(),
        None => Settings::read(None)?.complete().root,
    };
    Ok(boot::run_trace(args, &root)?)
}

fn run_mount(args: MountArgs) -> Result<(), CommandError> {
    logging::init(LogFormat::Text);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(CommandError::Runtime)?;
    let done = runtime.block_on(mount_command::mount(args));
    // A fetch that hangs must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(done?)
}

fn completions(shell: Shell) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "jaunt-snapshotter", &mut script);
    std::io::stdout().write_all(&script).map_err(CommandError::Print)
}

fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CommandError::Runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_how_it_is_used_and_that_is_so() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let help =
                command.get_after_help().unwrap_or_else(|| panic!("{name} has no example")).to_string();
            let lines: Vec<&str> = help.strip_prefix("Examples:\n").unwrap().lines().collect();
            for line in &lines {
                let parsed = Cli::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok() && line.contains(name), "{line}: {}", parsed.unwrap_err());
            }
            assert!(!lines.is_empty(), "{name}");
        }
    }

    #[test]
    fn completions_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "jaunt-snapshotter", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("materialise") && script.contains("uninstall"), "{shell}");
        }
    }

    #[test]
    fn a_malformed_reference_is_misuse() {
        assert!(Cli::try_parse_from(["jaunt-snapshotter", "pull", "a b"]).is_err());
        assert!(
            Cli::try_parse_from(["jaunt-snapshotter", "serve", "--plain-http", "h", "--root", "/x"]).is_ok()
        );
    }
}
