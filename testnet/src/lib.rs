//! Worlds of nodes without sockets, disks or clocks: the same engine as the product, driven step by step.
//!
//! Not for: the product. Nothing that users get depends on this crate (`tests/layers` checks it).

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a world that is used wrongly should stop the test that does so"
)]

pub mod shared;
pub mod world;
