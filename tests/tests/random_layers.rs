//! Random stacks of layers, mounted lazily and unpacked by containerd: no prefix of them may show a difference.
//!
//! The same stacks in each run. `JAUNT_RANDOM_STACKS=n` tries more of them, and others.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Bed, noise};
use jaunt_tests::error::Result;
use jaunt_tests::image::{
    Entry, Image, char_device, dir, fifo, file, hardlink, layer, opaque, symlink, whiteout,
};
use jaunt_tests::{Node, compare, needs_root};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Stacks tried by default: each costs a second or two.
const STACKS: u32 = 12;
const MAX_LAYERS: usize = 5;
const MAX_STEPS: usize = 24;
/// Few names, so that layers meet.
const NAMES: [&str; 4] = ["a", "b", "c", "dd"];

/// What a layer does to one path, before it is made to fit the layer.
#[derive(Clone, Debug)]
struct Step {
    what: What,
    path: Vec<usize>,
    other: Vec<usize>,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattr: Option<u8>,
}

#[derive(Clone, Debug)]
enum What {
    Directory,
    Opaque,
    File(usize),
    Symlink,
    HardLink,
    Fifo,
    Device,
    Whiteout,
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        3 => Just(What::Directory),
        1 => Just(What::Opaque),
        5 => prop_oneof![Just(0), 1..600usize, Just(70_000)].prop_map(What::File),
        1 => Just(What::Symlink),
        2 => Just(What::HardLink),
        1 => Just(What::Fifo),
        1 => Just(What::Device),
        3 => Just(What::Whiteout),
    ];
    let path = || proptest::collection::vec(0..NAMES.len(), 1..=3);
    let mode = prop_oneof![Just(0o644), Just(0o755), Just(0o1777), Just(0o2750), Just(0o4711), Just(0)];
    let owner = (prop_oneof![Just(0), Just(1000), Just(70_000)], prop_oneof![Just(0), Just(5)]);
    let mtime = (-2..2_000_000_000_i64, prop_oneof![Just(0), 0..1_000_000_000_u32]);
    (what, path(), path(), mode, owner, mtime, proptest::option::weighted(0.2, any::<u8>())).prop_map(
        |(what, path, other, mode, owner, mtime, xattr)| Step {
            what,
            path,
            other,
            mode,
            owner,
            mtime,
            xattr,
        },
    )
}

fn stack() -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(step(), 0..MAX_STEPS), 1..=MAX_LAYERS)
}

fn path_of(names: &[usize]) -> String {
    names.iter().map(|&name| NAMES[name]).collect::<Vec<_>>().join("/")
}

/// What there is at each path.
type Tree = BTreeMap<String, Found>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Directory,
    Other,
    /// A whiteout.
    Nothing,
}

/// A layer being written: what no builder would write is left out. Whiteouts of what is not there, for one: overlayfs
/// lists those of its lowest layer, and then does not find them.
struct Draft<'t> {
    entries: Vec<Entry>,
    /// What the layers below show, but for what this one hides.
    below: &'t mut Tree,
    /// What this layer holds so far.
    holds: Tree,
    /// Files that can be linked to, by path: attributes a link must repeat.
    files: BTreeMap<String, Step>,
}

impl Draft<'_> {
    fn add(&mut self, step: &Step) {
        let path = path_of(&step.path);
        if self.holds.contains_key(&path) || !self.make_parents(&step.path) {
            return;
        }
        let entry = match step.what {
            What::Directory | What::Opaque => dir(&path, step.mode),
            What::File(len) => file(&path, noise(len as u64, len)).mode(step.mode),
            What::Symlink => symlink(&path, path_of(&step.other)),
            What::Fifo => fifo(&path).mode(step.mode),
            What::Device => char_device(&path, 1, 3).mode(step.mode),
            What::Whiteout => {
                if self.below.contains_key(&path) {
                    hide(self.below, &path);
                    self.holds.insert(path.clone(), Found::Nothing);
                    self.entries.push(whiteout(path));
                }
                return;
            }
            What::HardLink => {
                let Some((target, of)) = self.files.iter().nth(step.other[0]) else { return };
                let (target, of) = (target.clone(), of.clone());
                self.holds.insert(path.clone(), Found::Other);
                hide(self.below, &path);
                let link = hardlink(path, target).mode(of.mode);
                return self.entries.push(dressed(link, &of));
            }
        };
        let is_directory = matches!(step.what, What::Directory | What::Opaque);
        if !matches!(step.what, What::Directory) || self.below.get(&path) == Some(&Found::Other) {
            hide(self.below, &path);
        }
        self.entries.push(dressed(entry, step));
        if matches!(step.what, What::Opaque) {
            self.entries.push(opaque(&path));
        }
        if matches!(step.what, What::File(_)) {
            self.files.insert(path.clone(), step.clone());
        }
        self.holds.insert(path, if is_directory { Found::Directory } else { Found::Other });
    }

    /// Lists the directories above, as builders do; false where one of them is something else.
    fn make_parents(&mut self, path: &[usize]) -> bool {
        for depth in 1..path.len() {
            let parent = path_of(&path[..depth]);
            match self.holds.get(&parent) {
                Some(Found::Directory) => {}
                Some(_) => return false,
                None => {
                    if self.below.get(&parent) == Some(&Found::Other) {
                        hide(self.below, &parent);
                    }
                    self.entries.push(dir(&parent, 0o755).mtime(1_500_000_000, 5));
                    self.holds.insert(parent, Found::Directory);
                }
            }
        }
        true
    }
}

/// Hides a path and all below it.
fn hide(tree: &mut Tree, path: &str) {
    let inside = format!("{path}/");
    tree.retain(|have, _| have != path && !have.starts_with(&inside));
}

fn dressed(entry: Entry, step: &Step) -> Entry {
    let entry = entry.owner(step.owner.0, step.owner.1).mtime(step.mtime.0, step.mtime.1);
    match step.xattr {
        Some(value) if !matches!(step.what, What::Symlink | What::Fifo | What::Device) => {
            entry.xattr("user.random", [value])
        }
        _ => entry,
    }
}

fn image(stack: &[Vec<Step>]) -> Image {
    let mut visible = Tree::new();
    let mut image = Image::new();
    for steps in stack {
        let (entries, holds, files) = Default::default();
        let mut draft = Draft { entries, below: &mut visible, holds, files };
        steps.iter().for_each(|step| draft.add(step));
        let Draft { entries, holds, .. } = draft;
        visible.extend(holds.into_iter().filter(|(_, found)| *found != Found::Nothing));
        image = image.layer(layer(entries));
    }
    image
}

/// What differs between the two in each prefix.
fn differences(bed: &Bed, node: &Node<'_>, name: &str, stack: &[Vec<Step>]) -> Result<Vec<String>> {
    let image = image(stack).build()?;
    let pushed = image.push(&bed.registry, name, "v1")?;
    bed.binaries.convert(&bed.scratch, &pushed.reference)?;
    node.pull(&pushed.reference)?;
    node.containerd.pull("overlayfs", &pushed.reference)?;
    let mut found = Vec::new();
    for (below, chain_id) in image.chain_ids().iter().map(ToString::to_string).enumerate() {
        let compared = compared(node, &chain_id);
        // The next stack may have the same chain.
        for snapshotter in ["jaunt", "overlayfs"] {
            node.containerd.end_view(snapshotter, &chain_id)?;
        }
        found.extend(compared?.iter().map(|line| format!("{} layers: {line}", below + 1)));
    }
    Ok(found)
}

fn compared(node: &Node<'_>, chain_id: &str) -> Result<Vec<String>> {
    let lazy = node.containerd.view("jaunt", chain_id)?;
    let unpacked = node.containerd.view("overlayfs", chain_id)?;
    let mut lines = compare::differences(&compare::read(lazy.point())?, &compare::read(unpacked.point())?);
    // The root directory has the time of unpacking.
    lines.retain(|line| !line.starts_with("/: mtime: "));
    Ok(lines)
}

#[test]
fn random_stacks_of_layers_read_as_containerd_unpacks_them() {
    needs_root!();
    let more = std::env::var("JAUNT_RANDOM_STACKS").ok().map(|stacks| stacks.parse().unwrap());
    let config = Config {
        cases: more.unwrap_or(STACKS),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = match more {
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
        Some(_) => TestRunner::new(config),
    };
    let bed = Bed::new();
    let node = bed.node();
    let number = std::cell::Cell::new(0);
    let outcome = runner.run(&stack(), |stack| {
        number.set(number.get() + 1);
        match differences(&bed, &node, &format!("random-{}", number.get()), &stack) {
            Ok(found) if found.is_empty() => Ok(()),
            Ok(found) => Err(TestCaseError::fail(found.join("\n"))),
            Err(error) => Err(TestCaseError::fail(error.to_string())),
        }
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}
