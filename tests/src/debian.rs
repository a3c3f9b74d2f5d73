//! Real images, built from Debian's packages as a [`Recipe`] says.
//!
//! debootstrap makes the base system, buildah the rest: without user namespaces (`--isolation chroot`), in
//! a storage of its own. Each image is an OCI layout, kept under a name that has a digest of all it was
//! made from; what lies below it is kept as a layout of its own, so that images share their bases' layers.

mod mirror;
mod tools;

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use jaunt_formats::Digest;

use crate::error::{At as _, Error, Result};
use crate::recipe::Recipe;
use crate::scratch::Scratch;
use tools::Tools;

/// Counts changes of how images are built that nothing else in the digest shows.
const GENERATION: u32 = 3;
const SUITE: &str = "bookworm";

/// Builds images, and keeps them below a directory.
pub struct Builder<'s> {
    scratch: &'s Scratch,
    cache: &'s Path,
    progress: &'s dyn Fn(&str),
    tools: OnceCell<Tools<'s>>,
}

impl<'s> Builder<'s> {
    /// A builder whose images lie below `cache`; `progress` hears each step.
    pub fn new(scratch: &'s Scratch, cache: &'s Path, progress: &'s dyn Fn(&str)) -> Self {
        Self { scratch, cache, progress, tools: OnceCell::new() }
    }

    /// The image as an OCI layout, built if it is not there yet, and what lies below it as well.
    pub fn image(&self, recipe: &Recipe) -> Result<PathBuf> {
        self.layout(Some(recipe)).map(|(layout, _)| layout)
    }

    /// The layout of a recipe's image, or of the base system, and the digest of all it is made from.
    fn layout(&self, recipe: Option<&Recipe>) -> Result<(PathBuf, Digest)> {
        let Some(recipe) = recipe else {
            let id = Digest::of(format!("{GENERATION} {SUITE} {}", std::env::consts::ARCH).as_bytes());
            return self.cached("base", id, |fresh| self.build_base(fresh));
        };
        // Depth is bounded by the number of recipes that a person wrote.
        let below = recipe.from.as_deref().map(Recipe::named).transpose()?;
        let (parent, parent_id) = self.layout(below.as_ref())?;
        let Recipe { name, layers, files, command, .. } = recipe;
        let id = Digest::of(format!("{parent_id} {layers:?} {files:?} {command:?}").as_bytes());
        self.cached(name, id, |fresh| self.build(recipe, &parent, fresh))
    }

    fn cached(
        &self,
        name: &str,
        id: Digest,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<(PathBuf, Digest)> {
        let layout = self.cache.join(format!("{name}-{}", &id.hex()[..12]));
        if layout.join("index.json").exists() {
            return Ok((layout, id));
        }
        fs::create_dir_all(self.cache).at(self.cache)?;
        let fresh = layout.with_extension(self.scratch.name());
        if let Err(error) = build(&fresh) {
            let _ = fs::remove_dir_all(&fresh);
            return Err(error);
        }
        fs::rename(&fresh, &layout).at(&layout)?;
        Ok((layout, id))
    }

    fn build_base(&self, layout: &Path) -> Result<()> {
        let tools = self.tools()?;
        self.say(&format!("image: base system {SUITE} (debootstrap)"));
        let rootfs = tools.debootstrap(SUITE, &mirror::of(SUITE)?)?;
        let container = tools.buildah(&["from", "scratch"])?;
        tools.buildah(&["copy", "--quiet", &container, &rootfs.display().to_string(), "/"])?;
        tools.push(&container, layout)
    }

    fn build(&self, recipe: &Recipe, parent: &Path, layout: &Path) -> Result<()> {
        let (tools, name) = (self.tools()?, &recipe.name);
        let mut container = tools.buildah(&["from", &format!("oci:{}:latest", parent.display())])?;
        let command = serde_json::to_string(&recipe.command)
            .map_err(|error| Error::unexpected(name, error.to_string()))?;
        tools.buildah(&["config", "--cmd", &command, &container])?;
        for (number, packages) in recipe.layers.iter().enumerate() {
            self.say(&format!("image {name}: adding {}", packages.join(" ")));
            if number > 0 {
                container = tools.next_layer(&container)?;
            }
            tools.install(&container, packages)?;
        }
        if !recipe.files.is_empty() {
            self.say(&format!("image {name}: adding its own files"));
            container = tools.next_layer(&container)?;
        }
        for (path, text) in &recipe.files {
            tools.write(&container, path, text)?;
        }
        self.say(&format!("image {name}: compressing the layers"));
        tools.push(&container, layout)
    }

    fn say(&self, step: &str) {
        (self.progress)(step);
    }

    fn tools(&self) -> Result<&Tools<'s>> {
        if let Some(tools) = self.tools.get() {
            return Ok(tools);
        }
        let tools = Tools::new(self.scratch)?;
        Ok(self.tools.get_or_init(|| tools))
    }
}
