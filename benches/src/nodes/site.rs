//! A registry, a switch, and machines around it; and one start on some of them.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use jaunt_tests::error::{At as _, Error, Result};
use jaunt_tests::{Binaries, Network, Nginx, Recipe, Registry, Scratch, cold};
use tokio::runtime::Runtime;

use super::machine::{Image, Prepared};
use super::{Kind, Machine, Start, Tier};
use crate::Subject;

/// The plug of the caching tier; nodes have those before it.
const TIER_PLUG: u8 = 11;
/// Where the tier listens.
const TIER_PORT: u16 = 5000;

/// Who takes part in a start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What each node is.
    pub kinds: Vec<Kind>,
    /// Whether it is the copy of the image that has a boot pack of a start.
    pub learnt: bool,
    /// Whether nodes ask nginx, with nothing in its cache, before the registry.
    pub tier: bool,
}

/// Everything that starts happen in.
#[derive(Debug)]
pub struct Site<'s> {
    scratch: &'s Scratch,
    network: &'s Network,
    registry: &'s Registry,
    binaries: &'s Binaries,
    /// The image as it is converted, and the reference of its copy with a learnt pack.
    subject: &'s Subject,
    learnt: &'s str,
    recipe: Recipe,
    runtime: Runtime,
    machines: Vec<Machine>,
    tier: Machine,
    tier_address: SocketAddr,
}

/// What has been counted so far.
struct Counts {
    bytes: u64,
    requests: u64,
    cpu_s: f64,
    tier: Tier,
}

impl<'s> Site<'s> {
    /// Plugs so many machines, and one for the tier, to `network`, which is a switch from now on.
    pub fn new(
        scratch: &'s Scratch,
        binaries: &'s Binaries,
        (network, registry): (&'s Network, &'s Registry),
        (subject, learnt, recipe): (&'s Subject, &'s str, Recipe),
        nodes: u8,
    ) -> Result<Self> {
        network.switch(scratch, jaunt_tests::network::GIGABIT)?;
        let machine = |number| {
            let machine = Machine { scratch: Scratch::new()?.inside() };
            let address = network.plug(&machine.scratch, number)?;
            Ok::<_, Error>((machine, address))
        };
        let machines = (0..nodes).map(|number| Ok(machine(number)?.0)).collect::<Result<Vec<_>>>()?;
        let (tier, address) = machine(TIER_PLUG)?;
        Ok(Self {
            scratch,
            network,
            registry,
            binaries,
            subject,
            learnt,
            recipe,
            runtime: Runtime::new().at("the runtime")?,
            machines,
            tier,
            tier_address: SocketAddr::new(address.into(), TIER_PORT),
        })
    }

    /// Has the registry send that fast.
    pub fn shape(&self, bits_per_second: u64) -> Result<()> {
        self.network.shape_switch(self.scratch, bits_per_second)
    }

    /// One start of the image on all nodes of `setup` at once, from nothing.
    pub fn start(&self, setup: &Setup) -> Result<Start> {
        let nginx = match setup.tier {
            true => Some(Nginx::start(&self.tier.scratch, self.tier_address, self.registry.address())?),
            false => None,
        };
        let image = Image {
            registry: self.registry.address(),
            tier: nginx.as_ref().map(Nginx::address),
            reference: if setup.learnt { self.learnt } else { &self.subject.reference }.to_owned(),
            learnt: setup.learnt,
            recipe: self.recipe.clone(),
        };
        let pairs = self.machines.iter().zip(&setup.kinds);
        let prepared = pairs
            .map(|(machine, kind)| machine.prepare(*kind, self.binaries, &image))
            .collect::<Result<Vec<_>>>()?;
        cold::drop_caches()?;
        self.registry.warm()?;
        let before = self.counts(nginx.as_ref())?;
        let ready_s = self.all_at_once(&prepared, &image)?;
        let after = self.counts(nginx.as_ref())?;
        prepared.into_iter().try_for_each(Prepared::wipe)?;
        let tier = nginx.is_some().then(|| after.tier - before.tier);
        drop(nginx);
        let cache = self.tier.scratch.path().join("nginx");
        if setup.tier {
            std::fs::remove_dir_all(&cache).at(&cache)?;
        }
        Ok(Start {
            ready_s: setup.kinds.iter().copied().zip(ready_s).collect(),
            bytes: after.bytes - before.bytes,
            requests: after.requests - before.requests,
            cpu_s: after.cpu_s - before.cpu_s,
            tier,
        })
    }

    /// Seconds from the common start until each node was ready. All keep running until the last one is.
    fn all_at_once(&self, prepared: &[Prepared<'_>], image: &Image) -> Result<Vec<f64>> {
        let gate = Barrier::new(prepared.len() + 1);
        let (begun, running) = thread::scope(|scope| {
            let start = |node| {
                let gate = &gate;
                scope.spawn(move || {
                    gate.wait();
                    Prepared::start(node, &self.runtime, self.binaries, image)
                })
            };
            let threads: Vec<_> = prepared.iter().map(start).collect();
            gate.wait();
            let begun = Instant::now();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(Error::unexpected("a node", "panicked")))
            };
            (begun, threads.into_iter().map(join).collect::<Vec<_>>())
        });
        let running = running.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(running.iter().map(|node| node.ready.duration_since(begun).as_secs_f64()).collect())
    }

    fn counts(&self, nginx: Option<&Nginx>) -> Result<Counts> {
        let tier = match nginx {
            None => Tier::default(),
            Some(nginx) => Tier {
                bytes: self.network.plug_sent(self.scratch, TIER_PLUG)?,
                requests: nginx.requests()?,
                cpu_s: nginx.cpu_seconds(),
            },
        };
        Ok(Counts {
            bytes: self.network.switch_sent(self.scratch)?,
            requests: self.registry.requests()?,
            cpu_s: self.registry.cpu_seconds()?,
            tier,
        })
    }
}
