//! Single flight on one thread. `shuttled` runs it on several.

use crate::class::Class::{Ahead, Background, Demand, Nearby};
use crate::single_flight::{Follower, SingleFlight, Ticket};

fn join(flights: &SingleFlight<u32>, key: usize) -> Follower<u32> {
    flights.join(key, Demand).0
}

fn keys(run: &[Ticket<u32>]) -> Vec<usize> {
    run.iter().map(Ticket::key).collect()
}

#[tokio::test]
async fn followers_get_the_outcome_and_later_ones_start_anew() {
    let flights = SingleFlight::new();
    let (first, news) = flights.join(1, Demand);
    assert!(news);
    let others: Vec<_> = (0..64).map(|_| flights.join(1, Demand)).collect();
    assert!(others.iter().all(|(_, news)| !news));
    let run = flights.take(1, Demand, |_, _, _| true);
    assert!(flights.take(1, Demand, |_, _, _| true).is_empty(), "taken once");
    run.into_iter().for_each(|ticket| ticket.complete(7));
    assert_eq!(first.await, Some(7));
    for (follower, _) in others {
        assert_eq!(follower.await, Some(7));
    }
    assert!(flights.join(1, Demand).1);
}

#[tokio::test]
async fn a_ticket_that_vanishes_lets_the_next_try() {
    let flights = SingleFlight::new();
    let follower = join(&flights, 1);
    drop(flights.take(1, Demand, |_, _, _| true));
    assert_eq!(follower.await, None);
    let follower = join(&flights, 1);
    flights.take(1, Demand, |_, _, _| true).pop().unwrap().complete(1);
    assert_eq!(follower.await, Some(1));
}

#[test]
fn a_run_takes_wanted_neighbours_as_far_as_they_fit() {
    let flights = SingleFlight::new();
    let _wanted: Vec<_> = [1, 2, 4, 5, 6, 9].map(|key| join(&flights, key)).into();
    let _later = flights.join(7, Nearby);
    assert_eq!(
        keys(&flights.take(5, Demand, |first, last, joint| last - first <= 3 && joint.1 - joint.0 < 3)),
        [4, 5, 6],
        "7 is less urgent"
    );
    assert_eq!(flights.first_wanted(0..20, Nearby), Some(1));
    assert_eq!(
        keys(&flights.take(2, Demand, |_, last, _| last < 9)),
        [1, 2],
        "4 to 6 are lost again, and nobody asked anew"
    );
    assert_eq!(flights.first_wanted(0..9, Nearby), Some(7));
    assert_eq!(flights.first_wanted(0..9, Ahead), None);
    assert!(flights.take(7, Ahead, |_, _, _| true).is_empty());
    assert_eq!(keys(&flights.take(7, Nearby, |_, last, _| last < 9)), [7]);
}

#[tokio::test]
async fn what_lies_between_flies_along_and_nothing_flies_twice() {
    let flights = SingleFlight::new();
    let (_low, _high) = (join(&flights, 2), join(&flights, 6));
    let later = flights.join(4, Nearby).0;
    let run = flights.take(6, Demand, |_, _, _| true);
    assert_eq!(keys(&run), [2, 3, 4, 5, 6]);
    let (follower, news) = flights.join(3, Demand);
    assert!(!news, "it is on its way");
    let _others: Vec<_> = [1, 7].map(|key| join(&flights, key)).into();
    assert_eq!(keys(&flights.take(1, Demand, |_, _, _| true)), [1], "what lies between flies");
    assert_eq!(keys(&flights.take(7, Demand, |_, _, _| true)), [7], "what lies between flies");
    run.into_iter().for_each(|ticket| ticket.complete(9));
    assert_eq!((follower.await, later.await), (Some(9), Some(9)));
    assert!(flights.join(5, Demand).1, "what nobody followed is forgotten as well");
}

#[test]
fn what_only_flies_along_keeps_no_run_going() {
    let flights = SingleFlight::<u32>::new();
    let (low, high) = (join(&flights, 1), join(&flights, 3));
    let run = flights.take(1, Demand, |_, _, _| true);
    drop((low, high));
    assert_eq!(flights.class_of(&run), None);
    let between = flights.join(2, Nearby);
    assert_eq!(flights.class_of(&run), Some(Nearby), "until somebody wants it");
    drop(between);
}

#[test]
fn a_more_urgent_wish_is_news_until_it_flies() {
    let flights = SingleFlight::<u32>::new();
    let (_job, news) = flights.join(3, Background);
    let (_same, again) = flights.join(3, Background);
    let (_reader, raised) = flights.join(3, Demand);
    assert_eq!((news, again, raised), (true, false, true));
    let run = flights.take(3, Demand, |_, _, _| true);
    assert_eq!(flights.class_of(&run), Some(Demand));

    let (_job, _) = flights.join(4, Background);
    let run = flights.take(4, Background, |_, _, _| true);
    let mut changed = tokio_test(flights.changed());
    assert!(!changed());
    let (_reader, raised) = flights.join(4, Demand);
    assert!(!raised && changed() && flights.class_of(&run) == Some(Demand), "who fetches it is told instead");
}

#[test]
fn what_nobody_follows_is_not_taken_and_who_fetches_it_is_told() {
    let flights = SingleFlight::<u32>::new();
    drop(join(&flights, 1));
    assert!(flights.take(1, Background, |_, _, _| true).is_empty());

    let follower = join(&flights, 2);
    let run = flights.take(2, Demand, |_, _, _| true);
    let mut changed = tokio_test(flights.changed());
    assert_eq!(flights.class_of(&run), Some(Demand));
    drop(follower);
    assert!(flights.class_of(&run).is_none() && changed());
    let again = join(&flights, 2);
    assert!(flights.class_of(&run).is_some(), "somebody came back in time");

    let waiting = join(&flights, 3);
    flights.close();
    assert!(flights.class_of(&run).is_none());
    assert_eq!(futures_util::FutureExt::now_or_never(waiting), Some(None));
    let (late, news) = flights.join(4, Demand);
    assert_eq!((futures_util::FutureExt::now_or_never(late), news), (Some(None), false));
    drop(again);
}

/// Polls a future each time it is asked whether it is done.
fn tokio_test<F: Future>(future: F) -> impl FnMut() -> bool {
    let mut future = Box::pin(future);
    move || futures_util::FutureExt::now_or_never(future.as_mut()).is_some()
}
