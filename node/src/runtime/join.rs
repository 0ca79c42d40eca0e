//! Joining a party: the one request that a device sends before it belongs to anybody.

use crate::engine::Joining;
use crate::failure::{Failure, Kind};
use crate::keystore::Keys;
use crate::network::{Multiaddr, NetError, Network};
use std::time::Duration;

/// How long the other device may take to be reached and to answer. 30 s: a slow line and a commit.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Calls the inviting device, shows the invitation, and gives its answer.
pub(crate) async fn ask_to_join(
    network: &Network,
    joining: &Joining,
    keys: &Keys,
) -> Result<Vec<u8>, Failure> {
    let addresses: Vec<Multiaddr> = joining.addresses().iter().filter_map(|text| text.parse().ok()).collect();
    let request = joining.request(keys)?;
    let device = *joining.inviter().as_bytes();
    let asked = async {
        network.connect(device, addresses).await?;
        let answer = network.request(device, request).await?;
        Ok::<_, NetError>(answer)
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(answer) => answer.map_err(|error| unreachable(&error.to_string())),
        Err(_) => Err(unreachable(&format!("no answer within {} s", ANSWER_MAX.as_secs()))),
    }
}

fn unreachable(reason: &str) -> Failure {
    Failure::new(Kind::Unreachable, format!("the device that made the invitation cannot be reached: {reason}"))
        .next("Is `karte run` running there, on the same network? Repeat this command: it goes on where it stopped.")
}
