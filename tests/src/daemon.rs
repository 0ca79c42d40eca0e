//! A running daemon: started and awaited, ended in order or killed, never left behind.

use crate::home::{Home, Told};
use crate::wait::{eventually, looking_every};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a daemon may take until it is ready: it may have to rebuild its view after a kill.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long it may take to end in order.
const END_MAX: Duration = Duration::from_secs(20);

/// `karte run`. Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    told: Arc<Mutex<Vec<Value>>>,
    log: Arc<Mutex<String>>,
    /// From its start until it said that it is ready.
    pub ready_after: Duration,
}

impl Daemon {
    pub(crate) fn start(home: &Home) -> Self {
        Self::start_with(home, &[])
    }

    pub(crate) fn start_with(home: &Home, words: &[&str]) -> Self {
        Self::of(home, home.command(&[&["run"], words].concat()))
    }

    /// A list of addresses that it told when it was ready, such as `relay`.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        let told = lock(&self.told);
        let lists = told.iter().filter_map(|item| item.get(name)?.as_array());
        lists.flatten().filter_map(|address| address.as_str().map(str::to_owned)).collect()
    }

    /// A daemon whose clock runs so many days ahead: `testnet node`, for `karte` cannot.
    pub fn ahead(home: &Home, days: u32) -> Self {
        let mut command = home.program(crate::binary::testnet());
        command.args(["node", "--clock-ahead", &format!("{days}d"), "--home"]).arg(home.path());
        Self::of(home, command.stdin(Stdio::null()))
    }

    fn of(home: &Home, mut command: impl std::borrow::BorrowMut<std::process::Command>) -> Self {
        let command = command.borrow_mut();
        let address = home.address();
        let port = home.port;
        for transport in [format!("udp/{port}/quic-v1"), format!("tcp/{port}")] {
            command.args(["--listen", &format!("/ip4/{address}/{transport}")]);
        }
        let begun = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("karte runs");
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::new(Mutex::new(String::new()));
        if let Some(out) = child.stdout.take() {
            let told = told.clone();
            collect(out, move |line| lock(&told).extend(serde_json::from_str::<Value>(line)));
        }
        if let Some(err) = child.stderr.take() {
            let log = log.clone();
            collect(err, move |line| {
                let mut log = lock(&log);
                log.push_str(line);
                log.push('\n');
            });
        }
        let mut daemon = Self { child, told, log, ready_after: Duration::ZERO };
        eventually(&format!("{}'s daemon is ready", home.name), READY_MAX, || {
            let ended = daemon.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "the daemon of {} runs: {}", home.name, daemon.log());
            let ready = lock(&daemon.told).iter().any(|item| item.get("listening").is_some());
            ready.then_some(())
        });
        daemon.ready_after = begun.elapsed();
        daemon
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs still.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it said on stderr.
    pub fn log(&self) -> String {
        lock(&self.log).clone()
    }

    /// The notices it gave.
    pub fn notices(&self) -> Vec<String> {
        let told = lock(&self.told);
        let notices = told.iter().filter_map(|item| item["notice"].as_str());
        notices.map(str::to_owned).collect()
    }

    /// The most memory it ever held, in bytes: `VmHWM`.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.expect("Linux tells VmHWM in kB") * 1024
    }

    /// `kill -9`: no last word, no flush.
    pub fn kill9(mut self) {
        self.child.kill().expect("our own child can be killed");
        let _ = self.child.wait();
    }

    /// Ends in order, and says that it did.
    pub fn stops(mut self, home: &Home) {
        home.does(&["stop"]);
        let (status, _) = eventually(&format!("{}'s daemon ends", home.name), END_MAX, || {
            self.child.try_wait().expect("a child can be asked")
        });
        assert!(status.success(), "it ends in order: {status}, {}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("a daemon of the failed story said {:?}\n{}", self.notices(), self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Longest that any command may take. Far above what any takes: whoever is still running then hangs.
const COMMAND_MAX: Duration = Duration::from_secs(180);

/// A command under way in its own process, to be awaited. Dropped, it is killed.
#[derive(Debug)]
pub struct UnderWay {
    child: Child,
    // Read while it runs: more than a pipe holds would block it.
    out: Option<JoinHandle<Vec<u8>>>,
    err: Option<JoinHandle<Vec<u8>>>,
    who: String,
    words: Vec<String>,
    begun: Instant,
}

impl UnderWay {
    /// Starts it.
    pub fn start(home: &Home, words: &[&str]) -> Self {
        let mut command = home.command(words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("karte runs");
        Self {
            out: child.stdout.take().map(drain),
            err: child.stderr.take().map(drain),
            child,
            who: home.name.clone(),
            words: words.iter().map(|&word| word.to_owned()).collect(),
            begun: Instant::now(),
        }
    }

    /// Waits for its end, which must come.
    pub fn ends(mut self) -> Told {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let what = format!("{}: `karte {}` ends", self.who, words.join(" "));
        let child = &mut self.child;
        let (status, _) = looking_every(Duration::from_millis(1), &what, COMMAND_MAX, || {
            child.try_wait().expect("a child can be asked")
        });
        let took = self.begun.elapsed();
        let bytes =
            |pipe: Option<JoinHandle<Vec<u8>>>| pipe.and_then(|pipe| pipe.join().ok()).unwrap_or_default();
        let output = Output { status, stdout: bytes(self.out.take()), stderr: bytes(self.err.take()) };
        Told::of(&self.who, &words, output, took)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Reads lines until the pipe closes.
fn collect(pipe: impl Read + Send + 'static, mut take: impl FnMut(&str) + Send + 'static) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            take(&line);
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
