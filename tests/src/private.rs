//! Container engines that write to fixed places of the machine, kept from it: each of their programs runs in
//! a mount namespace of its own.

use std::process::Command;

use crate::network::Network;
use crate::scratch::Scratch;

/// Covers what engines share whatever their options say: sockets, locks and state.
const COVER: &str = "for dir in /run /var/lib/containers /var/lib/docker; do \
    [ ! -d $dir ] || mount -t tmpfs tmpfs $dir; done; exec \"$0\" \"$@\"";

/// A command that sees an empty `/run`, and whose mounts nobody else sees.
pub fn here(scratch: &Scratch, program: &str) -> Command {
    cover(scratch.command("unshare"), program)
}

/// The same on the other side of a network. The process ID is the program's own.
pub fn behind(network: &Network, scratch: &Scratch, program: &str) -> Command {
    cover(network.command(scratch, "unshare"), program)
}

fn cover(mut unshare: Command, program: &str) -> Command {
    unshare.args(["--mount", "--propagation", "private", "sh", "-ec", COVER, program]);
    unshare
}
