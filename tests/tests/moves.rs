//! Nodes that move and nodes that are near, in a small world: who is connected hears of it, who is not is called.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it is surprised")]

use karte_node::command::Command;
use karte_testnet::cast::{CLINIC, DAEMON};
use karte_testnet::world::World;
use serde_json::json;

/// A patient and a clinic that know each other and are connected.
fn introduced() -> World {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    world.introduce("hana", "clinic").unwrap();
    world.pass(1_000);
    world
}

fn contact(world: &mut World, at: &str, name: &str) -> serde_json::Value {
    let contacts = world.items(at, Command::ContactList).unwrap();
    contacts.into_iter().find(|contact| contact["name"] == name).unwrap()
}

#[test]
fn a_contact_that_is_connected_hears_of_new_addresses_at_once() {
    let mut world = introduced();
    world.moves("hana", &["a café", "hana"]);
    assert_eq!(contact(&mut world, "clinic", "hana")["addresses"], json!(["a café", "hana"]));
    world.moves("hana", &["at home"]);
    assert_eq!(
        contact(&mut world, "clinic", "hana")["addresses"],
        json!(["at home"]),
        "and not the old ones"
    );
}

#[test]
fn after_a_change_of_network_contacts_are_called_without_waiting_for_the_pause_to_end() {
    let mut world = introduced();
    world.cut("hana", "clinic");
    for _ in 0..400 {
        world.pass(1_000);
    }
    world.heal("hana", "clinic");
    // Both have been refused often enough to pause for minutes; the patient's network changes.
    world.moves("hana", &["a café", "hana"]);
    world.pass(1_000);
    assert_eq!(contact(&mut world, "hana", "clinic")["connected"], true);
    assert_eq!(contact(&mut world, "clinic", "hana")["addresses"], json!(["a café", "hana"]), "and are told");
}

#[test]
fn a_contact_that_announces_itself_nearby_is_called_there_and_a_stranger_is_not() {
    let mut world = introduced();
    world.add("stranger", CLINIC).unwrap();
    world.moves("clinic", &["nowhere"]);
    world.cut("hana", "clinic");
    world.heal("hana", "clinic");
    for _ in 0..10 {
        world.pass(1_000);
    }
    world.moves("hana", &["nowhere either"]);
    world.cut("hana", "clinic");
    world.heal("hana", "clinic");
    for _ in 0..10 {
        world.pass(1_000);
    }
    assert_eq!(contact(&mut world, "hana", "clinic")["connected"], false, "neither knows where the other is");
    world.announces("stranger", "hana", &["stranger"]);
    world.pass(1_000);
    assert!(world.items("stranger", Command::Peers).unwrap().is_empty(), "strangers are not called");
    world.announces("clinic", "hana", &["clinic"]);
    world.pass(1_000);
    assert_eq!(contact(&mut world, "hana", "clinic")["connected"], true, "at the address it announces");
}
