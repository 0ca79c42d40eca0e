//! One value over each bound.

use crate::cast::{Cast, device, record, salt};
use crate::people::id_of;
use crate::vector::Vector;
use crate::{Vectors, put};
use karte_protocol::card::Card;
use karte_protocol::consent::Status;
use karte_protocol::entry::{Act, Device, Genesis};
use karte_protocol::grant::Scope;
use karte_protocol::label::Label;
use karte_protocol::request::AccessRequest;
use karte_protocol::signed::Statement;
use karte_protocol::time::DAY_MS;

/// One value over each bound.
pub(crate) fn bounds(cast: &Cast, vectors: &mut Vectors) {
    let oversized = cast.entry(Act::Fork { device: device(1), one: vec![0; 64 * 1024], other: vec![] });
    bound(vectors, cast, "bounds_object_too_large", "over 64 KiB", oversized);
    let genesis = |devices: Vec<Device>| {
        Act::Genesis(Genesis { salt: salt("genesis"), devices, next_recovery: vec![], threshold: 1 })
    };
    bound(vectors, cast, "bounds_genesis_no_device", "no device", cast.entry(genesis(vec![])));
    let many = vec![cast.phone.device(); 65];
    bound(vectors, cast, "bounds_genesis_65_devices", "65 devices", cast.entry(genesis(many)));
    let with_recipients = |count: usize| {
        cast.entry(Act::AddDevice(Device {
            device: device(1),
            recipients: vec![cast.phone.sealing.recipient(); count],
        }))
    };
    bound(vectors, cast, "bounds_device_no_recipient", "nobody to seal to", with_recipients(0));
    bound(vectors, cast, "bounds_device_9_recipients", "9 recipients", with_recipients(9));
    let steward = cast.entry(Act::AddSteward { party: cast.clinic, devices: vec![device(1); 65] });
    bound(vectors, cast, "bounds_steward_65_devices", "65 devices", steward);
    let reason = cast.entry(Act::Revoke { grant: id_of(&cast.granting), reason: "x".repeat(501) });
    bound(vectors, cast, "bounds_revoke_reason", "a reason of 501 bytes", reason);
    let status = |change: &dyn Fn(&mut Status)| {
        let mut status = cast.status();
        change(&mut status);
        status
    };
    bound(vectors, cast, "bounds_status_lease_zero", "a lease of 0", status(&|status| status.lease_ms = 0));
    bound(
        vectors,
        cast,
        "bounds_status_lease_long",
        "24 hours and 1 ms",
        status(&|status| status.lease_ms = DAY_MS + 1),
    );
    bound(
        vectors,
        cast,
        "bounds_status_65_heads",
        "65 heads",
        status(&|status| {
            status.heads = vec![status.heads[0].clone(); 65];
        }),
    );
    let mut release = cast.release();
    release.staff = "x".repeat(501);
    bound(vectors, cast, "bounds_release_staff", "501 bytes of staff", release);
    let mut receipt = cast.receipt();
    receipt.records = vec![record("one"); 1_001];
    bound(vectors, cast, "bounds_receipt_1001_records", "1,001 records", receipt);
    let asking = |change: &dyn Fn(&mut AccessRequest)| {
        let mut asking = cast.access_request();
        change(&mut asking);
        asking
    };
    let empty = asking(&|asking| asking.scope = Scope::default());
    bound(vectors, cast, "bounds_access_request_scope_empty", "neither kinds nor records", empty);
    let wide = asking(&|asking| asking.scope.kinds = vec!["x".repeat(8_192)]);
    bound(vectors, cast, "bounds_access_request_scope_bytes", "a scope over 8,192 bytes", wide);
    let long = asking(&|asking| asking.duration_ms = 366 * DAY_MS + 1);
    bound(vectors, cast, "bounds_access_request_duration", "366 days and 1 ms", long);
    let reason = asking(&|asking| asking.reason = "x".repeat(501));
    bound(vectors, cast, "bounds_access_request_reason", "a reason of 501 bytes", reason);
    let mut segment = cast.segment();
    segment.records = vec![record("one"); 1_000];
    bound(vectors, cast, "bounds_segment_1001_records", "1,000 records and one withdrawn", segment);
    let mut head = cast.shelf_head();
    head.chains = vec![head.chains[0].clone(); 65];
    bound(vectors, cast, "bounds_shelf_head_65_chains", "65 chains", head);
    let label = |change: &dyn Fn(&mut Label)| {
        let mut label = cast.short_label();
        change(&mut label);
        label
    };
    bound(vectors, cast, "bounds_label_kind_empty", "no kind", label(&|label| label.kind.clear()));
    bound(vectors, cast, "bounds_label_title", "201 bytes", label(&|label| label.title = "x".repeat(201)));
    bound(
        vectors,
        cast,
        "bounds_label_501_categories",
        "501 categories",
        label(&|label| {
            label.categories = vec!["x".into(); 501];
        }),
    );
    let card = |change: &dyn Fn(&mut Card)| {
        let mut card = cast.card();
        change(&mut card);
        card
    };
    bound(vectors, cast, "bounds_card_name_empty", "no name", card(&|card| card.name.clear()));
    bound(
        vectors,
        cast,
        "bounds_card_name_control",
        "an escape in the name",
        card(&|card| card.name = "a\u{1b}[2J".into()),
    );
    bound(
        vectors,
        cast,
        "bounds_card_kind",
        "a kind of its own",
        card(&|card| card.kind = "hospital".into()),
    );
    bound(
        vectors,
        cast,
        "bounds_card_9_addresses",
        "9 addresses",
        card(&|card| card.addresses = vec!["/ip4/192.0.2.1".into(); 9]),
    );
    bound(
        vectors,
        cast,
        "bounds_card_address",
        "an address of 301 bytes",
        card(&|card| card.addresses = vec!["x".repeat(301)]),
    );
}

pub(crate) fn bound<T: Statement>(vectors: &mut Vectors, cast: &Cast, name: &str, comment: &str, body: T) {
    put(vectors, name, Vector::refuse(T::KIND, "bounds", comment, cast.unchecked(&body)));
}
