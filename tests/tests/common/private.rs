//! A private registry with a converted image, and the login for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jaunt_tests::image::{Image, Pushed};
use jaunt_tests::process::run;
use jaunt_tests::registry::AUTH;
use jaunt_tests::{Binaries, Registry, Scratch};

use super::Bed;

/// What asks for a login whoever comes, and a directory with one.
#[derive(Debug)]
pub struct Private {
    pub bed: Bed,
    pub pushed: Pushed,
}

impl Private {
    pub fn new(image: Image) -> Self {
        let scratch = Scratch::new().unwrap();
        let registry = Registry::guarded(&scratch).unwrap();
        let bed = Bed { binaries: Binaries::find().unwrap(), registry, scratch };
        let pushed = push(&bed, image, "fixture");
        let private = Self { bed, pushed };
        private.write_login(&private.login_dir().join("config.json"));
        private.convert(&private.pushed.reference);
        private
    }

    /// One more image, in a repository of its own.
    pub fn converted(&self, image: Image, repository: &str) -> Pushed {
        let pushed = push(&self.bed, image, repository);
        self.convert(&pushed.reference);
        pushed
    }

    /// A directory as `DOCKER_CONFIG` names it.
    pub fn login_dir(&self) -> PathBuf {
        self.bed.scratch.dir("login").unwrap()
    }

    pub fn write_login(&self, path: &Path) {
        let host = self.bed.registry.host();
        fs::write(path, format!(r#"{{"auths": {{"{host}": {{"auth": "{AUTH}"}}}}}}"#)).unwrap();
    }

    /// The same command by somebody who is logged in.
    pub fn logged_in<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("DOCKER_CONFIG", self.login_dir())
    }

    fn convert(&self, reference: &str) {
        let mut convert = self.bed.binaries.proxy(&self.bed.scratch, &["convert", reference]);
        run(self.logged_in(&mut convert)).unwrap();
    }
}

fn push(bed: &Bed, image: Image, repository: &str) -> Pushed {
    image.build().unwrap().push(&bed.registry, repository, "v1").unwrap()
}
