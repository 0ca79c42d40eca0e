//! Not tests of anything: they print what the store costs here.
//! `cargo test --release -p karte-node store::disk::measures -- --ignored --nocapture --test-threads 1`

#![allow(clippy::cast_possible_truncation, reason = "small numbers made here")]

use std::sync::mpsc;
use std::time::Instant;

use tempfile::TempDir;

use super::super::Store;
use super::tests::{T, key, open};
use super::*;

const ROWS: u32 = 100_000;

fn row(batch: &mut Batch, n: u32, salt: u32) {
    let mut value = vec![0; 300];
    blake3::Hasher::new()
        .update(&n.to_le_bytes())
        .update(&salt.to_le_bytes())
        .finalize_xof()
        .fill(&mut value);
    batch.put(T, &(n / 10).to_le_bytes(), &n.to_le_bytes(), value);
}

fn fill(disk: &mut Disk, rows: u32) {
    for n in 0..rows {
        let mut batch = Batch::new();
        row(&mut batch, n, 0);
        disk.write(batch).unwrap();
        if n % 64 == 63 {
            disk.commit().unwrap();
        }
    }
    disk.commit().unwrap();
}

fn folder_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            if entry.path().is_dir() { folder_bytes(&entry.path()) } else { entry.metadata().unwrap().len() }
        })
        .sum()
}

#[test]
#[ignore = "prints times"]
fn starts_are_timed() {
    let dir = TempDir::new().unwrap();
    let mut disk = open(dir.path()).0;
    let begun = Instant::now();
    fill(&mut disk, ROWS);
    println!("{ROWS} rows of 300 bytes in groups of 64: {:?}; {:?}", begun.elapsed(), disk.stats());
    drop(disk);
    let begun = Instant::now();
    let (mut disk, opened) = open(dir.path());
    println!("start after an unclean stop: {:?} {opened:?}", begun.elapsed());
    let begun = Instant::now();
    disk.rebuild().unwrap();
    println!("rebuild: {:?}", begun.elapsed());
    let begun = Instant::now();
    disk.compact().unwrap();
    println!("compact: {:?}; {:?}", begun.elapsed(), disk.stats());
    let begun = Instant::now();
    Box::new(disk).close().unwrap();
    println!("close: {:?}", begun.elapsed());
    let begun = Instant::now();
    let health = Disk::check(dir.path(), key()).unwrap();
    println!("check: {:?}, {} frames, {:?}", begun.elapsed(), health.frames, health.findings);
    let begun = Instant::now();
    let (_disk, opened) = open(dir.path());
    println!("start after a clean close: {:?} {opened:?}", begun.elapsed());
}

#[test]
#[ignore = "prints sizes"]
fn a_million_updates_are_weighed() {
    for rows in [1_000, 10_000, 50_000] {
        let dir = TempDir::new().unwrap();
        let mut disk = open(&dir.path().join("worn")).0;
        let begun = Instant::now();
        fill(&mut disk, rows);
        let mut longest = std::time::Duration::ZERO;
        for n in 0..1_000_000u32 {
            let mut batch = Batch::new();
            row(&mut batch, n.wrapping_mul(2_654_435_761) % rows, n);
            disk.write(batch).unwrap();
            if n % 256 == 255 {
                let begun = Instant::now();
                disk.commit().unwrap();
                longest = longest.max(begun.elapsed());
            }
        }
        disk.commit().unwrap();
        let took = begun.elapsed();
        let mut fresh = open(&dir.path().join("fresh")).0;
        let mut batch = Batch::new();
        disk.scan_table(T, &mut |parent, item, value| {
            batch.put(T, parent, item, value.to_vec());
            if batch.size_bytes() > 1 << 20 {
                fresh.write(std::mem::take(&mut batch)).unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        fresh.write(batch).unwrap();
        fresh.commit().unwrap();
        fresh.compact().unwrap();
        let stats = (disk.stats(), fresh.stats());
        let reserve = super::super::reserve::BYTES;
        let worn = folder_bytes(&dir.path().join("worn"));
        let new = folder_bytes(&dir.path().join("fresh"));
        println!(
            "{rows} rows, a million updates: {took:?}, longest commit {longest:?}\n  {:?}\n  {:?}\n  {:.3} times a fresh one, without reserves {:.3}",
            stats.0,
            stats.1,
            worn as f64 / new as f64,
            (worn - reserve) as f64 / (new - reserve) as f64,
        );
    }
}

/// 64 threads put 300 bytes each and wait until it is durable: through one store thread with group commit,
/// and straight into sled with a flush for each.
#[test]
#[ignore = "prints speed"]
fn group_commit_is_compared_with_sled() {
    const WRITERS: u32 = 64;
    const EACH: u32 = 300;
    let dir = TempDir::new().unwrap();
    let mut disk = open(&dir.path().join("store")).0;
    let (inbox, waiting) = mpsc::sync_channel::<(Batch, mpsc::SyncSender<()>)>(1024);
    let store = std::thread::spawn(move || {
        while let Ok(first) = waiting.recv() {
            let mut told = vec![];
            let mut next = Some(first);
            while let Some((batch, reply)) = next {
                disk.write(batch).unwrap();
                told.push(reply);
                next = if told.len() < 128 { waiting.try_recv().ok() } else { None };
            }
            disk.commit().unwrap();
            told.into_iter().for_each(|reply| reply.send(()).unwrap());
        }
        disk.stats().commits
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let inbox = inbox.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    let mut batch = Batch::new();
                    row(&mut batch, writer * EACH + n, 0);
                    let (reply, done) = mpsc::sync_channel(1);
                    inbox.send((batch, reply)).unwrap();
                    done.recv().unwrap();
                }
            });
        }
    });
    let ours = f64::from(WRITERS * EACH) / begun.elapsed().as_secs_f64();
    drop(inbox);
    let commits = store.join().unwrap();
    let sled = sled::Config::new().path(dir.path().join("sled")).flush_every_ms(None).open().unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let sled = sled.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    sled.insert((writer * EACH + n).to_be_bytes(), vec![7u8; 300]).unwrap();
                    sled.flush().unwrap();
                }
            });
        }
    });
    let theirs = f64::from(WRITERS * EACH) / begun.elapsed().as_secs_f64();
    println!(
        "puts/s: store {ours:.0} ({commits} commits), sled with a flush each {theirs:.0}: {:.1} times",
        ours / theirs
    );
}
