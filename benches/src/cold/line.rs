//! The way to the registry: how fast, and how far.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use jaunt_tests::error::{At as _, Result};
use jaunt_tests::{Network, Registry, Scratch, network};

use crate::delay::{DelayProxy, Length};

/// A network to measure over: `1g`, or `10g-0.5ms` with a round trip on top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    gigabits: u64,
    round_trip: Duration,
}

impl Line {
    /// Fast enough not to be what preparations wait for.
    pub const WORKSHOP: Self = Self { gigabits: 10, round_trip: Duration::ZERO };

    /// Bits a second, each way.
    pub const fn bits(self) -> u64 {
        self.gigabits * network::GIGABIT
    }

    /// Makes the link to `registry` this one. What it leads to is reached at the answer's address, as long as that lives.
    pub fn lay(&self, scratch: &Scratch, network: &Network, registry: &Registry) -> Result<Laid> {
        network.shape(scratch, self.bits())?;
        let length = Length { round_trip: self.round_trip, rate: None };
        let far = !self.round_trip.is_zero();
        let proxy = far.then(|| DelayProxy::start(registry.address(), length)).transpose();
        let proxy = proxy.at("the delaying proxy")?;
        let address = proxy.as_ref().map_or(registry.address(), DelayProxy::address);
        Ok(Laid { address, proxy })
    }
}

/// A line in use.
#[derive(Debug)]
pub struct Laid {
    address: SocketAddr,
    proxy: Option<DelayProxy>,
}

impl Laid {
    /// The registry's name at this end, as it stands in references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// CPU time of what makes the line as long as it is.
    pub fn cpu_seconds(&self) -> f64 {
        self.proxy.as_ref().map_or(0.0, DelayProxy::cpu_seconds)
    }

    /// The latest image of a repository, as this end calls it.
    pub fn reference(&self, repository: &str) -> String {
        format!("{}/{repository}:latest", self.address)
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no network such as 1g or 10g-0.5ms");
        let (speed, round_trip) = text.split_once('-').unwrap_or((text, "0ms"));
        let gigabits = speed.strip_suffix('g').and_then(|speed| speed.parse().ok());
        let gigabits = gigabits.filter(|gigabits| (1..=100).contains(gigabits)).ok_or_else(wrong)?;
        let millis = round_trip.strip_suffix("ms").and_then(|millis| millis.parse::<f64>().ok());
        let millis = millis.filter(|millis| (0.0..=1000.0).contains(millis)).ok_or_else(wrong)?;
        Ok(Self { gigabits, round_trip: Duration::from_secs_f64(millis / 1000.0) })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}g", self.gigabits)?;
        match self.round_trip.as_secs_f64() * 1000.0 {
            0.0 => Ok(()),
            millis => write!(f, "-{millis}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        for text in ["1g", "10g-0.5ms", "1g-10ms"] {
            assert_eq!(text.parse::<Line>().unwrap().to_string(), text);
        }
        for wrong in ["", "1", "g", "0g", "1g-", "1g-ms", "1g--1ms", "1g-10", "1m-1ms", "1g-9999ms"] {
            assert!(wrong.parse::<Line>().is_err(), "{wrong}");
        }
    }
}
