//! Times a deploy from the request to the last switched link, and prints a row of such times.

use std::time::{Duration, Instant};

use crate::fleet::node;
use crate::fleet::{Fleet, LIMIT, PREFIX, wait_until};

/// The polling interval for a link.
const LOOK: Duration = Duration::from_micros(100);

/// Prints a row, and returns its median.
pub(crate) fn report(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let median = times[times.len() / 2];
    println!(
        "{what:12} median {:7.2} ms   fastest {:7.2} ms   slowest {:7.2} ms   {} rounds, 3 nodes",
        ms(median),
        ms(times[0]),
        ms(times[times.len() - 1]),
        times.len()
    );
    median
}

/// One deploy of a build that every node has staged.
pub(crate) fn deploy(fleet: &Fleet, artifact: &str) -> Duration {
    let (before, epoch) = (fleet.nodes.iter().map(node::Node::current).collect::<Vec<_>>(), fleet.newest_epoch());
    let (asked, last) = std::thread::scope(|scope| {
        let watches: Vec<_> = fleet
            .nodes
            .iter()
            .zip(&before)
            .map(|(node, before)| {
                scope.spawn(move || {
                    while node.current() == *before {
                        std::thread::sleep(LOOK);
                    }
                    Instant::now()
                })
            })
            .collect();
        let asked = Instant::now();
        let reply = fleet.consul.call("PUT", &format!("kv/{PREFIX}deploy"), artifact.as_bytes()).unwrap();
        assert_eq!(reply.status, 200);
        (asked, watches.into_iter().map(|watch| watch.join().unwrap()).max().unwrap())
    });
    wait_until(LIMIT, "the deploy ends", || {
        let newest = fleet.history().pop()?;
        (newest["epoch"].as_u64()? > epoch && newest["outcome"] == "done").then_some(())
    });
    last - asked
}
