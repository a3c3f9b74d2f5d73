//! The images that are started: real ones, and the same files cut and padded otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use jaunt_tests::error::{Error, Result};
use jaunt_tests::image::BuiltImage;
use jaunt_tests::process::run;
use jaunt_tests::{Binaries, Probe, Recipe, Registry, Scratch};

use super::touched::Touched;
use super::{Below, pad};
use crate::layerfs::{roots::Root, split};
use crate::{Progress, Subject};

/// An image that was asked for: `nginx`, `nginx@64` (its files in 64 layers), `nginx@1+5g` (in one, and above it another
/// with 5 GB of files that nobody touches).
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    recipe: String,
    /// Layers that its files are cut into; none leaves it as it is.
    layers: Option<u64>,
    /// Gigabytes of padding.
    pad: f64,
}

/// An image, and what it takes to start it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The image in the registry.
    pub subject: Subject,
    /// What all variants of it are made of.
    pub recipe: String,
    /// Whether it is the variant that the others are set in relation to: all files in one layer.
    pub is_plain: bool,
    /// What is asked whether it is ready; without it, its output tells.
    pub probe: Option<Probe>,
    /// Its files, unpacked; of a padded one, those without the padding.
    pub tree: PathBuf,
    /// Length of its boot pack, once there is one.
    pub pack_bytes: Option<u64>,
    /// What its starts touch, once that is known.
    pub touched: Option<Touched>,
}

impl Case {
    /// Those of one recipe together: they take turns.
    pub fn grouped(cases: Vec<Self>) -> Vec<Vec<Self>> {
        let mut groups: Vec<Vec<Self>> = Vec::new();
        for case in cases {
            match groups.iter_mut().find(|group| group.iter().any(|other| other.recipe == case.recipe)) {
                Some(group) => group.push(case),
                None => groups.push(vec![case]),
            }
        }
        groups
    }

    /// The repository of the copy that is converted as everybody does it.
    pub fn converted(&self) -> String {
        format!("{}-converted", self.subject.repository())
    }

    /// The repository of the copy that has a boot pack of starts.
    pub fn packed(&self) -> String {
        format!("{}-packed", self.subject.repository())
    }

    /// The repository that is started from.
    pub fn repository(&self, below: Below) -> String {
        match below {
            Below::JauntConverted => self.converted(),
            Below::JauntPacked => self.packed(),
            _ => self.subject.repository().to_owned(),
        }
    }
}

/// Where images are made.
#[derive(Debug)]
pub struct Workshop<'w> {
    /// Where trees lie.
    pub scratch: &'w Scratch,
    /// Our programs.
    pub binaries: &'w Binaries,
    /// Where images go.
    pub registry: &'w Registry,
    /// Where builds are kept.
    pub cache: &'w Path,
    /// Where progress goes.
    pub progress: &'w Progress,
}

impl Workshop<'_> {
    /// Builds, pushes, unpacks and converts the images, each once.
    pub fn cases(&self, variants: &[Variant]) -> Result<Vec<Case>> {
        let mut originals: Vec<(Recipe, Case)> = Vec::new();
        for variant in variants {
            if !originals.iter().any(|(recipe, _)| recipe.name == variant.recipe) {
                let recipe = Recipe::named(&variant.recipe)?;
                let case = self.original(&recipe)?;
                originals.push((recipe, case));
            }
        }
        let case = |variant: &Variant| {
            let original = originals.iter().find(|(recipe, _)| recipe.name == variant.recipe);
            let (recipe, case) =
                original.ok_or_else(|| Error::unexpected(&variant.recipe, "was not made"))?;
            match variant.layers {
                None => Ok(case.clone()),
                Some(layers) => self.cut(variant, recipe, case, layers),
            }
        };
        let cases = variants.iter().map(case).collect::<Result<Vec<_>>>()?;
        cases.iter().try_for_each(|case| self.convert(case))?;
        Ok(cases)
    }

    /// Converts an image without a boot pack, and a copy of it as everybody does.
    fn convert(&self, case: &Case) -> Result<()> {
        self.progress.say(&format!("converting {}", case.subject.name));
        let (host, reference) = (self.registry.host(), &case.subject.reference);
        let copy = format!("{host}/{}:latest", case.converted());
        let repository = format!("{host}/{}", case.subject.repository());
        for words in [
            &["copy", "--plain-http", &host, reference, &copy][..],
            &["convert", "--plain-http", &host, "--no-boot-pack", reference],
            &["convert", "--plain-http", &host, "--reuse-from", &repository, &copy],
        ] {
            run(&mut self.binaries.proxy(self.scratch, words))?;
        }
        Ok(())
    }

    fn original(&self, recipe: &Recipe) -> Result<Case> {
        let subject = Subject::build(self.scratch, self.registry, recipe, self.cache, self.progress)?;
        self.progress.say(&format!("unpacking {}", recipe.name));
        let tree = self.scratch.dir("trees")?.join(&recipe.name);
        let unpacked = Root::unpacked(self.scratch, self.registry, subject.repository())?;
        run(Command::new("cp").args(["--archive", "--no-target-directory"]).arg(unpacked.path()).arg(&tree))?;
        unpacked.wipe()?;
        let (recipe, probe) = (recipe.name.clone(), recipe.probe);
        Ok(Case { subject, recipe, is_plain: false, probe, tree, pack_bytes: None, touched: None })
    }

    fn cut(&self, variant: &Variant, recipe: &Recipe, original: &Case, count: u64) -> Result<Case> {
        self.progress.say(&format!("cutting {} into {}", recipe.name, variant.name()));
        let mut layers = split::cut(self.scratch, &original.tree, count, split::By::File)?;
        if variant.pad > 0.0 {
            layers.push(pad::layer(variant.pad)?);
        }
        let image = BuiltImage { layers, command: recipe.command.clone() };
        let bytes = image.layers.iter().map(|layer| layer.bytes.len() as u64).sum();
        let pushed = image.push(self.registry, &variant.repository(), "latest")?;
        let subject = Subject {
            name: variant.name(),
            layers: image.layers.len(),
            bytes,
            reference: pushed.reference,
            readiness: recipe.readiness(),
        };
        let is_plain = (count, variant.pad) == (1, 0.0);
        Ok(Case { subject, is_plain, ..original.clone() })
    }
}

impl Variant {
    /// Every recipe as it is.
    pub fn all() -> Result<Vec<Self>> {
        let plain = |recipe: Recipe| Self { recipe: recipe.name, layers: None, pad: 0.0 };
        Ok(Recipe::all()?.into_iter().map(plain).collect())
    }

    /// As it is asked for.
    fn name(&self) -> String {
        match (self.layers, self.pad) {
            (None, _) => self.recipe.clone(),
            (Some(layers), 0.0) => format!("{}@{layers}", self.recipe),
            (Some(layers), pad) => format!("{}@{layers}+{pad}g", self.recipe),
        }
    }

    /// The same, as repositories may be called.
    fn repository(&self) -> String {
        self.name().replace('@', "-in-").replace('+', "-padded-")
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no image such as nginx, nginx@64 or nginx@1+5g");
        let Some((recipe, cut)) = text.split_once('@') else {
            return Ok(Self { recipe: text.to_owned(), layers: None, pad: 0.0 });
        };
        let (layers, pad) = cut.split_once('+').unwrap_or((cut, "0g"));
        let layers = layers.parse().ok().filter(|layers| (1..=100).contains(layers)).ok_or_else(wrong)?;
        let pad = pad.strip_suffix('g').and_then(|pad| pad.parse::<f64>().ok());
        let pad = pad.filter(|pad| (0.0..=100.0).contains(pad)).ok_or_else(wrong)?;
        Ok(Self { recipe: recipe.to_owned(), layers: Some(layers), pad })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_read_as_it_is_written() {
        for (text, repository) in [
            ("nginx", "nginx"),
            ("node-express@64", "node-express-in-64"),
            ("nginx@1+0.5g", "nginx-in-1-padded-0.5g"),
        ] {
            let variant: Variant = text.parse().unwrap();
            assert_eq!((variant.name(), variant.repository()), (text.to_owned(), repository.to_owned()));
        }
        for wrong in ["nginx@", "nginx@0", "nginx@x", "nginx@1+", "nginx@1+5", "nginx@1+-1g", "nginx@999"] {
            assert!(wrong.parse::<Variant>().is_err(), "{wrong}");
        }
    }
}
