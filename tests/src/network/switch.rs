//! More than two machines: the far side as a switch to which further namespaces are plugged.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::{Network, PREFIX};
use crate::error::{Error, Result};
use crate::process::run;
use crate::scratch::Scratch;

/// The interface of the far side that all others are plugged to.
const SWITCH: &str = "switch";
/// Machines that can be plugged: what the subnet has besides the two ends of the link.
const PLUGS: u8 = 12;

impl Network {
    /// Makes the far side a switch. It keeps its address, which is now the switch's; what it sends itself, to whomever, is shaped
    /// to `bits_per_second`, and what it only hands on is not.
    pub fn switch(&self, scratch: &Scratch, bits_per_second: u64) -> Result<()> {
        let Self { name, peer, remote, .. } = self;
        let ip = |words: String| run(scratch.command("ip").args(words.split(' '))).map(drop);
        ip(format!("-n {name} link add {SWITCH} type bridge"))?;
        ip(format!("-n {name} addr del {remote}/{PREFIX} dev {peer}"))?;
        ip(format!("-n {name} link set {peer} master {SWITCH}"))?;
        ip(format!("-n {name} addr add {remote}/{PREFIX} dev {SWITCH}"))?;
        ip(format!("-n {name} link set {SWITCH} up"))?;
        self.shape_switch(scratch, bits_per_second)
    }

    /// Makes what the switch itself sends as fast as that.
    pub fn shape_switch(&self, scratch: &Scratch, bits_per_second: u64) -> Result<()> {
        let shape = format!("qdisc replace dev {SWITCH} root {}", super::bucket(bits_per_second));
        run(self.command(scratch, "tc").args(shape.split(' ')))?;
        Ok(())
    }

    /// Plugs a machine to the switch, the namespace of the name of `machine`, which is made; its address. Each needs another `number`,
    /// below 12.
    pub fn plug(&self, machine: &Scratch, number: u8) -> Result<Ipv4Addr> {
        if number >= PLUGS {
            return Err(Error::unexpected(format!("machine {number}"), "the switch has no room for it"));
        }
        let (switch, name, plug) = (&self.name, machine.name(), format!("plug{number}"));
        let address = Ipv4Addr::from(u32::from(self.remote) + 1 + u32::from(number));
        // By programs of this process's own namespace: the machine's does not exist yet.
        let ip = |words: String| run(std::process::Command::new("ip").args(words.split(' '))).map(drop);
        ip(format!("netns add {name}"))?;
        ip(format!("-n {switch} link add {plug} type veth peer name eth0 netns {name}"))?;
        ip(format!("-n {switch} link set {plug} master {SWITCH}"))?;
        ip(format!("-n {switch} link set {plug} up"))?;
        ip(format!("-n {name} addr add {address}/{PREFIX} dev eth0"))?;
        ip(format!("-n {name} link set lo up"))?;
        ip(format!("-n {name} link set eth0 up"))?;
        Ok(address)
    }

    /// Bytes that the far side itself has sent over its switch, all headers included.
    pub fn switch_sent(&self, scratch: &Scratch) -> Result<u64> {
        self.counted(scratch, SWITCH, "tx")
    }

    /// Bytes that a plugged machine has sent.
    pub fn plug_sent(&self, scratch: &Scratch, number: u8) -> Result<u64> {
        self.counted(scratch, &format!("plug{number}"), "rx")
    }

    fn counted(&self, scratch: &Scratch, interface: &str, direction: &str) -> Result<u64> {
        let words = ["-json", "-stats", "-n", &self.name, "link", "show", "dev", interface];
        let said = run(scratch.command("ip").args(words))?;
        let all: Option<Value> = serde_json::from_str(&said).ok();
        let bytes = all.and_then(|all| all[0]["stats64"][direction]["bytes"].as_u64());
        bytes.ok_or_else(|| Error::unexpected("ip -json -stats link show", said))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::needs_root;
    use crate::process::Daemon;

    const PORT: u16 = 7000;
    const BYTES: usize = 3_000_000;
    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn machines_on_a_switch_reach_each_other_and_what_each_sends_is_counted() {
        needs_root!();
        let scratch = Scratch::new().unwrap();
        let network = Network::new(&scratch, super::super::GIGABIT).unwrap();
        network.switch(&scratch, super::super::GIGABIT).unwrap();
        let (one, two) = (Scratch::new().unwrap().inside(), Scratch::new().unwrap().inside());
        let (address, _) = (network.plug(&one, 0).unwrap(), network.plug(&two, 1).unwrap());
        let served = one.dir("served").unwrap();
        std::fs::write(served.join("file"), vec![0; BYTES]).unwrap();
        let mut command = one.command("busybox");
        command.args(["httpd", "-f", "-p", &PORT.to_string(), "-h"]).arg(&served);
        let mut server = Daemon::spawn("server", &mut command, &one.logs()).unwrap();
        let answers = || TcpStream::connect((address, PORT)).is_ok();
        server.wait_until("serving", LIMIT, answers).unwrap();
        let url = format!("http://{address}:{PORT}/file");
        let fetched =
            run(two.command("sh").args(["-c", &format!("busybox wget -q -O - {url} | wc -c")])).unwrap();
        assert_eq!(fetched.trim(), BYTES.to_string());
        let sent = [network.plug_sent(&scratch, 0).unwrap(), network.plug_sent(&scratch, 1).unwrap()];
        assert!(sent[0] > BYTES as u64 && sent[1] < BYTES as u64 / 2, "{sent:?}");
        assert!(network.switch_sent(&scratch).unwrap() < BYTES as u64);
        assert!(network.plug(&two, PLUGS).is_err());
    }
}
