//! The demo's image: a real one, built from Debian packages, a layer for each thing one would add.
//!
//! Base system (debootstrap), python3, numpy, pandas, and a program that uses them and prints `ready`.
//! buildah does the building, without user namespaces (`--isolation chroot`), in a storage of its own.
//! The result is an OCI layout, kept under a name that is a digest of the recipe.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jaunt_formats::Digest;

use crate::error::{At as _, Error, Result};
use crate::process::run;
use crate::scratch::Scratch;

/// Counts changes of the recipe that the text it is hashed from does not show.
const RECIPE: u32 = 2;
const SUITE: &str = "bookworm";
/// One layer each, bottom to top, above the base system.
const PACKAGES: [&str; 3] = ["python3", "python3-numpy", "python3-pandas"];
/// Tells dpkg not to wait for the disk after each file: what is built here is thrown away on a failure.
const UNSAFE_IO: &str = "DPKG_FORCE=unsafe-io";
/// The whole program: imports are most of what a start reads, then a little work.
const PROGRAM: &str = r#"import signal
import numpy
import pandas

frame = pandas.DataFrame({"n": numpy.arange(1000)})
frame["square"] = frame["n"] ** 2
assert int(frame.groupby(frame["n"] % 7)["square"].sum().sum()) == 332833500
print("ready", flush=True)
signal.pause()
"#;
/// What the program prints when it can work.
pub const READY: &str = "ready";

/// The image as an OCI layout below `cache`, built if it is not there yet; `progress` hears each step.
pub fn python_image(scratch: &Scratch, cache: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let recipe = format!("{RECIPE} {SUITE} {PACKAGES:?} {PROGRAM} {}", std::env::consts::ARCH);
    let layout = cache.join(format!("python-{}", &Digest::of(recipe.as_bytes()).hex()[..12]));
    if layout.join("index.json").exists() {
        progress("image: built earlier");
        return Ok(layout);
    }
    fs::create_dir_all(cache).at(cache)?;
    let fresh = layout.with_extension(scratch.name());
    let built = Builder::new(scratch)?.build(&fresh, progress);
    if let Err(error) = built {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    fs::rename(&fresh, &layout).at(&layout)?;
    Ok(layout)
}

/// Pushes a layout, byte for byte, to `host/repository:tag` in plain HTTP.
pub fn push_layout(scratch: &Scratch, layout: &Path, reference: &str) -> Result<()> {
    copy(scratch, &format!("oci:{}:latest", layout.display()), reference, false)
}

/// Copies an image of any registry, byte for byte, to `host/repository:tag` in plain HTTP.
pub fn copy_image(scratch: &Scratch, source: &str, reference: &str) -> Result<()> {
    let loopback = ["localhost", "127.", "[::1]"].iter().any(|host| source.starts_with(host));
    copy(scratch, &format!("docker://{source}"), reference, loopback)
}

fn copy(scratch: &Scratch, source: &str, reference: &str, plain_source: bool) -> Result<()> {
    let mut command = scratch.command("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
    if plain_source {
        command.arg("--src-tls-verify=false");
    }
    run(command.arg(source).arg(format!("docker://{reference}")))?;
    Ok(())
}

struct Builder<'s> {
    scratch: &'s Scratch,
    dir: PathBuf,
    proxy: Option<String>,
}

impl<'s> Builder<'s> {
    fn new(scratch: &'s Scratch) -> Result<Self> {
        let dir = scratch.dir("build")?;
        for cache in ["lists", "archives/partial"] {
            scratch.dir(&format!("build/{cache}"))?;
        }
        let policy = dir.join("policy.json");
        fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).at(&policy)?;
        Ok(Self { scratch, dir, proxy: apt_proxy() })
    }

    fn build(&self, layout: &Path, progress: &dyn Fn(&str)) -> Result<()> {
        let mirror = mirror(&read_sources())?;
        progress(&format!("image: base system {SUITE} (debootstrap)"));
        let rootfs = self.dir.join("rootfs");
        let mut debootstrap = self.command("debootstrap");
        run(debootstrap
            .envs(UNSAFE_IO.split_once('='))
            .args(["--variant=minbase", SUITE])
            .arg(&rootfs)
            .arg(&mirror))?;
        // As published base images do: no downloaded packages, no package lists.
        for dir in ["var/cache/apt/archives", "var/lib/apt/lists"].map(|dir| rootfs.join(dir)) {
            fs::remove_dir_all(&dir).at(&dir)?;
            fs::create_dir(&dir).at(&dir)?;
        }
        let mut container = self.buildah(&["from", "--name", "base", "scratch"])?;
        self.buildah(&["copy", "--quiet", &container, &rootfs.display().to_string(), "/"])?;
        for (number, package) in PACKAGES.into_iter().enumerate() {
            progress(&format!("image: layer {} is done, adding {package}", number + 1));
            container = self.next_layer(&container, package)?;
            self.install(&container, package, number == 0)?;
        }
        progress(&format!("image: layer {} is done, adding the program", PACKAGES.len() + 1));
        container = self.next_layer(&container, "program")?;
        let program = self.dir.join("main.py");
        fs::write(&program, PROGRAM).at(&program)?;
        self.buildah(&["copy", "--quiet", &container, &program.display().to_string(), "/app/main.py"])?;
        self.buildah(&["config", "--cmd", r#"["python3", "/app/main.py"]"#, &container])?;
        progress("image: compressing the layers");
        let image = self.commit(&container)?;
        self.buildah(&["push", "--quiet", &image, &format!("oci:{}:latest", layout.display())])?;
        Ok(())
    }

    /// Commits what was done to `container` as a layer, and goes on in a new one above it.
    fn next_layer(&self, container: &str, name: &str) -> Result<String> {
        let image = self.commit(container)?;
        self.buildah(&["from", "--name", name, &image])
    }

    fn commit(&self, container: &str) -> Result<String> {
        let image = format!("localhost/{container}:latest");
        self.buildah(&["commit", "--quiet", container, &image])?;
        Ok(image)
    }

    /// apt's lists and archives stay out of the layer: they are mounted over it.
    fn install(&self, container: &str, package: &str, update: bool) -> Result<()> {
        let update = if update { "apt-get -q update && " } else { "" };
        let script = format!("{update}apt-get -qy install --no-install-recommends {package}");
        let lists = format!("{}:/var/lib/apt/lists", self.dir.join("lists").display());
        let archives = format!("{}:/var/cache/apt/archives", self.dir.join("archives").display());
        let isolation =
            ["run", "--isolation", "chroot", "--env", "DEBIAN_FRONTEND=noninteractive", "--env", UNSAFE_IO];
        let words = [&isolation[..], &["-v", &lists, "-v", &archives, container, "--", "sh", "-c", &script]];
        self.buildah(&words.concat())?;
        Ok(())
    }

    fn buildah(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command("buildah");
        command.arg("--root").arg(self.dir.join("storage")).arg("--runroot").arg(self.dir.join("run"));
        command.args(["--storage-driver", "overlay", words[0]]);
        if ["from", "commit", "push"].contains(&words[0]) {
            command.arg("--signature-policy").arg(self.dir.join("policy.json"));
        }
        Ok(run(command.args(&words[1..]))?.trim().to_owned())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.scratch.command(program);
        if let Some(proxy) = &self.proxy {
            command.env("http_proxy", proxy);
        }
        command
    }
}

/// The proxy this machine's apt uses, if it uses one.
fn apt_proxy() -> Option<String> {
    let line = run(Command::new("apt-config").args(["shell", "PROXY", "Acquire::http::Proxy"])).ok()?;
    let value = line.trim().strip_prefix("PROXY='")?.strip_suffix('\'')?;
    (value != "DIRECT").then(|| value.to_owned())
}

/// All of apt's source lists, one after the other.
fn read_sources() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).map(|text| text + "\n\n").collect()
}

/// The mirror this machine uses for the suite, in either of apt's two formats.
fn mirror(sources: &str) -> Result<String> {
    let stanzas = sources.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let suites = field("Suites:")?;
        Some((
            field("URIs:")?.split_whitespace().next()?,
            suites.split_whitespace().any(|suite| suite == SUITE),
        ))
    });
    let lines = sources.lines().filter_map(|line| {
        let mut words = line
            .strip_prefix("deb ")?
            .split_whitespace()
            .skip_while(|word| word.starts_with('[') || word.ends_with(']') || word.contains('='));
        Some((words.next()?, words.next()? == SUITE))
    });
    stanzas
        .chain(lines)
        .find(|(uri, suite)| *suite && uri.starts_with("http"))
        .map(|(uri, _)| uri.trim_end_matches('/').to_owned())
        .ok_or_else(|| {
            Error::unexpected("/etc/apt", format!("no http source for {SUITE}: the demo's image needs one"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats() {
        let lines = "# deb http://a.example/debian bookworm main\ndeb http://s.example bookworm-security main\n\
            deb [arch=amd64 signed-by=/k] http://b.example/debian/ bookworm main\n";
        assert_eq!(mirror(lines).unwrap(), "http://b.example/debian");
        let stanzas = "Types: deb\nURIs: http://s.example\nSuites: bookworm-security\n\n\
            Types: deb\n# note\nURIs: http://c.example/debian\nSuites: bookworm bookworm-updates\n";
        assert_eq!(mirror(stanzas).unwrap(), "http://c.example/debian");
        assert!(mirror("deb http://u.example/ubuntu jammy main").is_err());
    }
}
