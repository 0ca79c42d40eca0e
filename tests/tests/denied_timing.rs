//! A refusal says nothing of its reason: the bytes, over a real connection. Its times are a recorded run's
//! (`testnet/reports/denied-timing.md`): here they are told and not judged.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use karte_testnet::denied;
use karte_tests::say;

#[test]
fn every_refusal_of_a_release_has_the_same_bytes() {
    let timing = denied::measure(40, 7, None).unwrap();
    say!("denied: {} tries of each of five reasons, largest |t| {:.2}", timing.tries, timing.t_max);
    assert!(timing.identical, "one refusal is like another");
}
