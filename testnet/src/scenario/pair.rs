//! A holder and a reader with a proxy as their only way to each other, and a grant between them.

use super::node::{Node, Run, free_port, tcp};
use super::stage::Stage;
use crate::proxy::{Link, Proxy, Way};
use std::io;
use std::time::Duration;

/// How long what was granted may take until it counts, and one transfer until it is whole.
pub(super) const SOON: Duration = Duration::from_secs(60);
pub(super) const WHOLE_MAX: Duration = Duration::from_secs(300);

/// Words of a grant of all that scenarios import.
pub(super) const EVERYTHING: &[&str] =
    &["--kind", "fhir", "--kind", "document", "--kind", "dicom", "--offline", "7d"];

pub(super) struct Pair<'a> {
    pub(super) holder: Node<'a>,
    pub(super) reader: Node<'a>,
    // After the nodes: it goes when nobody calls it any more.
    pub(super) proxy: Proxy,
    pub(super) stage: &'a Stage,
}

impl<'a> Pair<'a> {
    /// Both run, know each other, are connected, and the reader may read what the holder will import. `name` makes
    /// their folders differ from those of other pairs on the stage.
    pub(super) fn new(stage: &'a Stage, name: &str, link: Link) -> io::Result<Self> {
        let pair = Self::strangers(stage, name, link)?;
        befriend(stage, &pair.holder, &pair.reader)?;
        Ok(pair)
    }

    /// The same, but they do not know each other yet.
    pub(super) fn strangers(stage: &'a Stage, name: &str, link: Link) -> io::Result<Self> {
        let mut holder = Node::new(stage, &format!("{name}-hana"), false)?;
        let mut reader = Node::new(stage, &format!("{name}-sakura"), true)?;
        let at = free_port()?;
        let proxy = Proxy::start(at, link)?;
        let announce = vec![proxy.multiaddress()];
        holder.start(Run { listen: vec![tcp(at)], announce, ..Run::default() })?;
        // It listens nowhere, so that the holder cannot call it around the proxy.
        reader.start(Run::default())?;
        Ok(Self { holder, reader, proxy, stage })
    }

    /// Waits until the reader has so many records; how long that took.
    pub(super) fn arrives(&self, records: u64) -> io::Result<Duration> {
        arrives(self.stage, &self.reader, records, WHOLE_MAX)
    }

    /// Bytes that have come from the holder: records and all that is needed to bring them.
    pub(super) fn passed(&self) -> u64 {
        self.proxy.passed(Way::FromTarget)
    }
}

/// The two take each other's cards, and the first gives the second a grant of everything, which is accepted.
pub(super) fn befriend(stage: &Stage, holder: &Node<'_>, reader: &Node<'_>) -> io::Result<String> {
    acquaint(holder, reader)?;
    grant(stage, holder, reader, EVERYTHING)
}

/// The two take each other's cards and are connected.
pub(super) fn acquaint(holder: &Node<'_>, reader: &Node<'_>) -> io::Result<()> {
    reader.knows(holder)?;
    holder.knows(reader)?;
    reader.does(&["sync", &holder.name]).map(drop)
}

/// A grant that the reader has accepted.
pub(super) fn grant(
    stage: &Stage,
    holder: &Node<'_>,
    reader: &Node<'_>,
    words: &[&str],
) -> io::Result<String> {
    let grant = holder.grants(reader, words)?;
    stage.until(&format!("{} has accepted", reader.name), SOON, || {
        let grants = holder.does(&["grant", "list"])?;
        let active = grants.iter().any(|given| given["id"] == grant.as_str() && given["state"] == "active");
        Ok(active.then_some(()))
    })?;
    Ok(grant)
}

/// Waits until a reader has so many records; how long that took.
pub(super) fn arrives(
    stage: &Stage,
    reader: &Node<'_>,
    records: u64,
    bound: Duration,
) -> io::Result<Duration> {
    let what = format!("{} has {records} records", reader.name);
    let (_, took) = stage.until(&what, bound, || Ok((reader.count()? >= records).then_some(())))?;
    Ok(took)
}
