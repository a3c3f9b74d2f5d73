//! Where the dynamic linker looks for libraries: the program's own words, the environment, the image's configuration, and the
//! directories that are built into it.

use super::elf::Program;
use super::files::{File, Files};
use crate::error::Error;

/// Directories of one list; more are no list that anybody wrote.
const MAX_DIRS: usize = 64;
/// How often a directory may name its file's own; every one of them makes it longer.
const MAX_ORIGINS: usize = 4;
const CONFIGURATION: &str = "/etc/ld.so.conf.d";
const BUILT_IN: [&str; 5] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];

/// The directories of all searches of a start.
#[derive(Default)]
pub struct Search {
    /// `LD_LIBRARY_PATH`.
    environment: Vec<String>,
    /// The linker's own directory: Debian's and others' of their architecture.
    beside: Vec<String>,
    /// The lines of [`CONFIGURATION`], once they have been read.
    configured: Option<Vec<String>>,
}

impl Search {
    /// With `LD_LIBRARY_PATH`, if that is set.
    pub fn new(environment: Option<&str>) -> Self {
        Self { environment: environment.map(list).unwrap_or_default(), ..Self::default() }
    }

    /// Takes the linker's directory.
    pub fn beside(&mut self, linker: &File) {
        let dir = linker.dir();
        if !self.beside.contains(&dir) && self.beside.len() < MAX_DIRS {
            self.beside.push(dir);
        }
    }

    /// Reads the image's configuration, once.
    pub async fn configured(&mut self, files: &Files<'_>) -> Result<(), Error> {
        if self.configured.is_some() {
            return Ok(());
        }
        let mut dirs = Vec::new();
        for name in files.names(CONFIGURATION, ".conf", MAX_DIRS) {
            let Some(file) = files.find(&format!("{CONFIGURATION}/{name}")) else { continue };
            let text = files.head(&file).await?;
            let lines = String::from_utf8_lossy(&text);
            dirs.extend(lines.lines().map(str::trim).filter(|line| line.starts_with('/')).map(str::to_owned));
        }
        dirs.truncate(MAX_DIRS);
        self.configured = Some(dirs);
        Ok(())
    }

    /// The library that `file`, which is `program`, calls `name`.
    pub fn library(&self, files: &Files<'_>, file: &File, program: &Program, name: &str) -> Option<File> {
        if name.contains('/') {
            return files.find(name);
        }
        let origin = file.dir();
        let own = |path: &Option<String>| path.as_deref().map(list).unwrap_or_default();
        let (run, old) = (own(&program.names.runpath), own(&program.names.rpath));
        // Where there is the new one, the old one does not count.
        let old = if run.is_empty() { old } else { Vec::new() };
        let expand = |dir: &String| {
            let is_sane = dir.matches("ORIGIN").count() <= MAX_ORIGINS;
            is_sane.then(|| dir.replace("$ORIGIN", &origin).replace("${ORIGIN}", &origin))
        };
        let dirs = old.iter().filter_map(expand);
        let dirs = dirs.chain(self.environment.iter().cloned()).chain(run.iter().filter_map(expand));
        let known = self.configured.iter().flatten().chain(&self.beside).cloned();
        let built_in = BUILT_IN.into_iter().map(str::to_owned);
        dirs.chain(known).chain(built_in).find_map(|dir| files.find(&format!("{dir}/{name}")))
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(':').filter(|dir| !dir.is_empty()).take(MAX_DIRS).map(str::to_owned).collect()
}
