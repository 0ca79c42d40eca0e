//! Records told of as they arrive, to whoever watches.
//!
//! For: a screen or a program that acts on what is new. Not for: completeness; who must see every record lists them.

use super::{Node, Out};
use crate::command::Event;
use crate::failure::Failure;
use karte_protocol::id::{GrantId, RecordId};
use serde_json::json;
use tokio::sync::{broadcast, mpsc};

/// Arrivals that may wait for a slow watcher; then it misses the oldest. 4,096: 64 bytes each, and some groups of one
/// commit.
pub(super) const WAITING_MAX: usize = 4_096;

/// A record that is durable, and the grant it came under.
pub(super) type Arrival = (GrantId, RecordId);

impl Node {
    pub(super) fn tell_arrival(&self, grant: GrantId, record: RecordId) {
        // Nobody may be watching.
        let _ = self.shared.arrivals.send((grant, record));
    }

    /// One object when the watch begins, then one for each record, until nobody listens any more.
    pub(super) async fn watch(&self, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let mut arrivals = self.shared.arrivals.subscribe();
        let mut item = json!({ "watching": true });
        while out.send(Out::Event(Event::Item(item))).await.is_ok() {
            let arrival = tokio::select! {
                arrival = arrivals.recv() => arrival,
                () = out.closed() => break,
            };
            item = match arrival {
                Ok((grant, record)) => json!({ "arrived": record.to_hex(), "grant": grant.to_hex() }),
                Err(broadcast::error::RecvError::Lagged(missed)) => json!({ "missed": missed }),
                Err(broadcast::error::RecvError::Closed) => break,
            };
        }
        Ok(())
    }
}
