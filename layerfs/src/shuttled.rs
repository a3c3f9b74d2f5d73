//! Single flight under shuttle: threads that join, fetch, give up and vanish, in thousands of interleavings.
//!
//! The code is the same file, with shuttle's locks in place of the standard library's.

#[path = "single_flight.rs"]
#[allow(dead_code, clippy::duplicate_mod)]
mod single_flight;
mod sync {
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
}

use std::sync::atomic::{AtomicU32, Ordering};

use shuttle::future::block_on;
use shuttle::sync::Arc;
use shuttle::thread;

use crate::class;
use class::Class;
use single_flight::SingleFlight;

const ITERATIONS: usize = 3000;

/// Reads a span as `Layer` does: joins, sees to the fetch if need be, waits, and tries again if it was lost.
/// `vanish` says whether a fetch goes away without an outcome.
fn read(flights: &SingleFlight<u32>, class: Class, fetches: &AtomicU32, vanish: impl Fn(u32) -> bool) -> u32 {
    loop {
        let (follower, news) = flights.join(0, class);
        if news && let Some(ticket) = flights.take(0, class, |_, _, _| true).pop() {
            let fetch = fetches.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
            if !vanish(fetch) {
                ticket.complete(fetch);
            }
        }
        if let Some(outcome) = block_on(follower) {
            return outcome;
        }
    }
}

#[test]
fn readers_at_once_cause_one_fetch_and_all_are_served() {
    shuttle::check_random(
        || {
            let flights = Arc::new(SingleFlight::new());
            let (fetches, joined) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let readers: Vec<_> = (0..3)
                .map(|at| {
                    let (flights, fetches, joined) = (flights.clone(), fetches.clone(), joined.clone());
                    let class = if at == 0 { Class::Nearby } else { Class::Demand };
                    thread::spawn(move || {
                        let (follower, news) = flights.join(0, class);
                        joined.fetch_add(1, Ordering::SeqCst);
                        if news && let Some(ticket) = flights.take(0, class, |_, _, _| true).pop() {
                            fetches.fetch_add(1, Ordering::SeqCst);
                            // The flight does not end before the last has joined.
                            while joined.load(Ordering::SeqCst) < 3 {
                                thread::yield_now();
                            }
                            ticket.complete(7);
                        }
                        block_on(follower)
                    })
                })
                .collect();
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() == Some(7)));
            assert_eq!(fetches.load(Ordering::SeqCst), 1);
        },
        ITERATIONS,
    );
}

#[test]
fn a_fetch_that_vanishes_strands_nobody() {
    shuttle::check_random(
        || {
            let flights = Arc::new(SingleFlight::new());
            let fetches = Arc::new(AtomicU32::new(0));
            let readers: Vec<_> = [Class::Background, Class::Demand, Class::Demand]
                .map(|class| {
                    let (flights, fetches) = (flights.clone(), fetches.clone());
                    thread::spawn(move || read(&flights, class, &fetches, |fetch| fetch == 0))
                })
                .into();
            readers.into_iter().for_each(|reader| assert!(reader.join().unwrap() > 0));
        },
        ITERATIONS,
    );
}

/// What a dispatcher does: nothing, if nobody needs it any more.
fn fetch_if_needed(flights: &SingleFlight<u32>) {
    let run = flights.take(0, Class::Background, |_, _, _| true);
    if flights.class_of(&run).is_some() {
        run.into_iter().for_each(|ticket| ticket.complete(9));
    }
}

#[test]
fn who_gives_up_takes_nothing_from_those_who_stay() {
    shuttle::check_random(
        || {
            let flights = Arc::new(SingleFlight::<u32>::new());
            let fetches = Arc::new(AtomicU32::new(0));
            let fickle = {
                let flights = flights.clone();
                thread::spawn(move || {
                    let (follower, news) = flights.join(0, Class::Demand);
                    drop(follower);
                    if news {
                        fetch_if_needed(&flights);
                    }
                })
            };
            let fetcher = {
                let flights = flights.clone();
                thread::spawn(move || fetch_if_needed(&flights))
            };
            assert!([0, 9].contains(&read(&flights, Class::Demand, &fetches, |_| false)));
            fickle.join().unwrap();
            fetcher.join().unwrap();
        },
        ITERATIONS,
    );
}
