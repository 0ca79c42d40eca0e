//! What stands on top of the product to try it: worlds of engines without sockets, disks or clocks ([`world`]); the
//! store under faults ([`faults`]), over a million updates ([`growth`]) and under load ([`store_bench`]); decisions over
//! a long log ([`decide_bench`]); what a refusal tells ([`denied`]); every decoder under changed inputs ([`fuzz`]); real
//! nodes over bad networks and among bad neighbours ([`scenario`], through [`proxy`]), and beside what users pick instead
//! ([`mod@bench`]).
//!
//! Not for: the product. Nothing that users get depends on this crate (`tests/layers` checks it).

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a world that is used wrongly should stop the test that does so"
)]

pub mod bench;
pub mod cast;
pub mod decide_bench;
pub mod denied;
pub mod faults;
pub mod fuzz;
pub mod growth;
pub mod node;
pub mod proxy;
pub mod scenario;
pub mod shared;
pub mod simulate;
pub mod store_bench;
mod told;
pub mod world;
