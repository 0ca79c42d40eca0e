//! Whoever watches a node sees each record when it is there.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use karte_tests::Home;
use karte_tests::wait::eventually;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn a_watcher_sees_a_record_arrive_that_is_there_by_then() {
    let (chihiro, sakura) = (Home::patient("chihiro"), Home::clinic("sakura"));
    let refused = sakura.tries(&["sync", "--watch"]);
    assert_eq!(refused.code, Some(2), "without a daemon nothing arrives by itself: {refused}");
    let (_holder, _reader) = (chihiro.runs(), sakura.runs());
    chihiro.meets(&sakura);
    let grant = chihiro.grants(&sakura, &["--kind", "document"]);

    let mut watcher = sakura.command(&["sync", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let out = BufReader::new(watcher.stdout.take().unwrap());
    let kept = lines.clone();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            kept.lock().unwrap().push(serde_json::from_str::<serde_json::Value>(&line).unwrap());
        }
    });
    let told = |name: &'static str| {
        let lines = lines.lock().unwrap();
        lines.iter().find(|line| line.get(name).is_some()).cloned()
    };
    eventually("it watches", Duration::from_secs(10), || told("watching"));
    let letter = chihiro.beside("letter.txt");
    std::fs::write(&letter, "Dear Dr Sato, ...").unwrap();
    assert_eq!(chihiro.imports(&letter).taken, 1);
    let (arrived, _) = eventually("the letter arrives", Duration::from_secs(10), || told("arrived"));
    assert_eq!(arrived["grant"], grant.as_str());
    let listed = sakura.lists();
    assert!(listed.iter().any(|record| record["id"] == arrived["arrived"]), "it is there: {listed:?}");
    watcher.kill().unwrap();
    watcher.wait().unwrap();
}
