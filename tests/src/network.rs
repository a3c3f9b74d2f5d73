//! A second machine: a network namespace behind a veth pair whose two directions are shaped.
//!
//! The namespace carries its scratch's name and goes with it. Addresses come from 198.18.0.0/15
//! (RFC 2544: for tests of networks, routed nowhere), sixteen of them a scratch.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At as _, Error, Result};
use crate::process::run;
use crate::scratch::Scratch;

mod switch;

/// Bits a second of the link that figures are quoted for.
pub const GIGABIT: u64 = 1_000_000_000;

/// A token bucket holds at least what passes between two ticks of a 250 Hz kernel at 1 Gbit/s
/// (500 kB), and whole GSO packets of 64 KiB; more would let short transfers pass unshaped.
const BURST_BYTES: u32 = 512 * 1024;
/// How long a packet may queue before it is dropped: what a switch of that speed buffers.
const QUEUE_LATENCY: &str = "20ms";

/// What a bucket refills in this time may pass at once on faster links: its timer wakes late.
const BURST_S: f64 = 0.001;

/// Of a scratch's subnet, with its sixteen addresses.
const PREFIX: u32 = 28;

/// A shaped link between this machine and a namespace of its own.
#[derive(Debug)]
pub struct Network {
    name: String,
    link: String,
    peer: String,
    remote: Ipv4Addr,
}

/// A namespace with a loopback interface and nothing else: where containers listen without meeting anybody's ports.
#[derive(Debug)]
pub struct Pod {
    path: PathBuf,
}

impl Pod {
    /// Makes the one of a scratch, with which it goes.
    pub fn new(scratch: &Scratch) -> Result<Self> {
        let name = format!("{}-pod", scratch.name());
        let ip = |words: &str| run(scratch.command("ip").args(words.split(' ')));
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(Self { path: Path::new("/run/netns").join(name) })
    }

    /// The file that stands for it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Network {
    /// Makes the namespace and the link, `bits_per_second` fast each way.
    pub fn new(scratch: &Scratch, bits_per_second: u64) -> Result<Self> {
        let name = scratch.name().to_owned();
        // An interface's name has at most 15 bytes: "jaunt-<pid>-<n>" shortened.
        let id = name.trim_start_matches("jaunt-").replace('-', ".");
        let (link, peer) = (format!("j{id}h"), format!("j{id}n"));
        let [local, remote] = free_addresses(scratch)?;
        let ip = |words: &str| run(scratch.command("ip").args(words.split(' ')));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {link} type veth peer name {peer} netns {name}"))?;
        ip(&format!("addr add {local}/{PREFIX} dev {link}"))?;
        ip(&format!("-n {name} addr add {remote}/{PREFIX} dev {peer}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set {peer} up"))?;
        ip(&format!("link set {link} up"))?;
        let network = Self { name, link, peer, remote };
        network.shape(scratch, bits_per_second)?;
        Ok(network)
    }

    /// Makes the link as fast as that, each way.
    pub fn shape(&self, scratch: &Scratch, bits_per_second: u64) -> Result<()> {
        let tbf = |dev: &str| format!("qdisc replace dev {dev} root {}", bucket(bits_per_second));
        run(scratch.command("tc").args(tbf(&self.link).split(' ')))?;
        run(self.command(scratch, "tc").args(tbf(&self.peer).split(' ')))?;
        Ok(())
    }

    /// The namespace's address, as reached from here.
    pub fn remote(&self) -> Ipv4Addr {
        self.remote
    }

    /// A command whose process runs on the other side. (Not `ip netns exec`, which would give it a copy
    /// of all mounts: those of other tests would stay in use as long as it runs.)
    pub fn command(&self, scratch: &Scratch, program: &str) -> Command {
        let mut command = scratch.command("nsenter");
        command.args([&format!("--net=/run/netns/{}", self.name), "--", program]);
        command
    }

    /// Bytes that came from the other side since the link was made, all headers included.
    pub fn received(&self) -> Result<u64> {
        let counter = Path::new("/sys/class/net").join(&self.link).join("statistics/rx_bytes");
        let text = fs::read_to_string(&counter).at(&counter)?;
        text.trim().parse().map_err(|_| Error::unexpected(counter.display().to_string(), text))
    }
}

/// What shapes an interface, as tc(8) calls it.
fn bucket(bits_per_second: u64) -> String {
    let burst = (bits_per_second as f64 / 8.0 * BURST_S).max(BURST_BYTES.into());
    format!("tbf rate {bits_per_second}bit burst {burst:.0} latency {QUEUE_LATENCY}")
}

/// The first two addresses of a subnet that no interface of this machine has.
fn free_addresses(scratch: &Scratch) -> Result<[Ipv4Addr; 2]> {
    /// The subnets within 198.18.0.0/15.
    const SUBNETS: u32 = 1 << (PREFIX - 15);
    let taken = run(scratch.command("ip").args(["-o", "-4", "addr", "show"]))?;
    let start = std::process::id();
    for n in 0..64 {
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + start.wrapping_add(n * 97) % SUBNETS * 16;
        let [local, remote] = [Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2)];
        if !taken.contains(&format!(" {local}/")) {
            return Ok([local, remote]);
        }
    }
    Err(Error::unexpected("198.18.0.0/15", "all addresses that were tried are taken"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs_root;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    /// A scratch whose listener runs here and whose client, busybox's nc, runs on the other side. How long it took at
    /// most, what was counted, and how often the link held a packet back.
    fn transfer(bits_per_second: u64, bytes: usize) -> (f64, u64, u64) {
        let scratch = Scratch::new().unwrap();
        let network = Network::new(&scratch, bits_per_second).unwrap();
        let local = Ipv4Addr::from(u32::from(network.remote()) - 1);
        let listener = TcpListener::bind((local, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sender = format!("head -c {bytes} /dev/zero | busybox nc {local} {port}");
        // Before the first byte can be under way, however late it is accepted here.
        let start = Instant::now();
        let mut child = network.command(&scratch, "sh").args(["-c", &sender]).spawn().unwrap();
        let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        drop(stream);
        child.wait().unwrap();
        assert_eq!(received.len(), bytes);
        let told = run(network.command(&scratch, "tc").args(["-s", "qdisc", "show", "dev", &network.peer]));
        let told = told.unwrap();
        let held = told.split("overlimits ").nth(1).and_then(|rest| rest.split(' ').next());
        (seconds, network.received().unwrap(), held.and_then(|held| held.parse().ok()).expect(&told))
    }

    #[test]
    fn the_link_is_no_faster_than_it_says_and_counts() {
        needs_root!();
        let bytes = 20_000_000;
        let (seconds, counted, held) = transfer(200_000_000, bytes);
        let mbit = bytes as f64 * 8e-6 / seconds;
        assert!(mbit < 215.0, "{mbit} Mbit/s over a link of 200");
        // On a busy machine it may be slower; but what limits it is the link.
        assert!(held > 0, "the link held nothing back");
        assert!((20_000_000..21_500_000).contains(&counted), "{counted} bytes counted for {bytes}");
    }
}
