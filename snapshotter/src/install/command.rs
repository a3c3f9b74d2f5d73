//! The command lines of `install` and `uninstall`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::apply::PATIENCE;
use super::host::Host;
use super::{InstallError, Request, Version, drain, install, plan, uninstall, usage};
use crate::config::{ConfigError, Settings};

/// What `install` can be asked.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Root directory of the machine to change: of a node, as a pod has it mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// containerd's configuration file, on that machine
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    containerd_config: PathBuf,
    /// containerd's program, on that machine [default: where programs are]
    #[arg(long, value_name = "PROGRAM")]
    containerd: Option<PathBuf>,
    /// containerd's version, where it cannot be asked
    #[arg(long, value_name = "VERSION")]
    containerd_version: Option<Version>,
    /// Where the program is copied to
    #[arg(long, value_name = "PATH", default_value = super::PROGRAM)]
    program: PathBuf,
    /// Only make the snapshotter known to containerd: what is pulled by CRI is pulled as before
    #[arg(long)]
    no_cri: bool,
    /// Have Docker use its containerd image store, with this snapshotter
    #[arg(long)]
    docker: bool,
    /// Configure containerd alone: no program, no unit, no configuration file
    #[arg(long)]
    no_unit: bool,
    /// Start the daemon and restart containerd, with systemd
    #[arg(long)]
    start: bool,
    /// With --start: seconds until the daemon must serve, before containerd is told of it
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs())]
    wait: u64,
    /// Pull with it again, on a node that was drained
    #[arg(long)]
    undrain: bool,
    /// Print what would be written, and write nothing
    #[arg(long, visible_alias = "dry-run")]
    print: bool,
}

/// What `uninstall` can be asked.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Root directory of the machine to change
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Only have images pulled as before: what runs keeps its files, and the daemon stays
    #[arg(long)]
    drain: bool,
    /// Stop the daemon and restart containerd, with systemd; with --drain, restart containerd
    #[arg(long)]
    stop: bool,
    /// Also when snapshots are in use, or files were changed since
    #[arg(long)]
    force: bool,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum InstallCommandError {
    /// No configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not installed.
    #[error(transparent)]
    Install(#[from] InstallError),
}

impl InstallArgs {
    /// Installs, and prints what was done.
    ///
    /// # Errors
    /// Something is in the way; nothing was written then, unless a disk failed in between.
    pub async fn run(self) -> Result<(), InstallCommandError> {
        let settings = settings(&Host::new(&self.host_root))?.complete();
        let request = Request {
            host_root: self.host_root,
            containerd_config: self.containerd_config,
            containerd: self.containerd,
            version: self.containerd_version,
            socket: settings.socket,
            root: settings.root,
            program: self.program,
            cri: !self.no_cri,
            docker: self.docker,
            unit: !self.no_unit,
            start: self.start,
            patience: Duration::from_secs(self.wait),
            undrain: self.undrain,
        };
        if !self.print {
            install(&request).await?.iter().for_each(|line| println!("{line}"));
            if !request.start {
                println!("next: install --start does the rest, where anything has changed");
            }
            return Ok(());
        }
        let plan = plan(&request)?;
        for file in plan.files {
            println!("# {}", file.path.display());
            match String::from_utf8(file.content) {
                Ok(text) => println!("{text}"),
                Err(bytes) => println!("({} bytes)\n", bytes.as_bytes().len()),
            }
        }
        plan.notes.iter().for_each(|note| println!("# {note}"));
        Ok(())
    }
}

impl UninstallArgs {
    /// Undoes it, and prints what was done.
    ///
    /// # Errors
    /// The snapshotter is in use, or files were changed since.
    pub async fn run(self) -> Result<(), InstallCommandError> {
        let done = match self.drain {
            true => drain(&self.host_root, self.stop)?,
            false => {
                if !self.force {
                    let host = Host::new(&self.host_root);
                    usage::refuse_in_use(&host, &settings(&host)?.complete()).await?;
                }
                uninstall(&self.host_root, self.stop, self.force)?
            }
        };
        done.iter().for_each(|line| println!("{line}"));
        Ok(())
    }
}

/// What the daemon there is configured with.
fn settings(host: &Host) -> Result<Settings, InstallCommandError> {
    let config = host.at(Path::new(crate::config::DEFAULT_FILE))?;
    Ok(Settings::read(config.exists().then_some(&*config))?)
}
