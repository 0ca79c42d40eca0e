//! Worlds of nodes without sockets, disks or clocks: the same engine as the product, driven step by step.
//!
//! Not for: the product. Nothing that users get depends on this crate (`tests/layers` checks it).

pub mod world;
