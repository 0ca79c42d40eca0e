//! What a side cost: time of the processors and peak memory, as Linux tells them under `/proc`.
//!
//! For: processes that run through (daemons, a server) by their ids, and those that the bench starts and waits for
//! meanwhile, which are one part called `commands`. Not for: time on the wall, which whoever runs the side takes.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Ticks of a second in `/proc/PID/stat`: `USER_HZ`, which is 100 in every Linux that programs see.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often memory of processes that come and go is looked at. 50 ms: a thousandth of a processor's time.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The part of whatever is started and waited for while the meter runs.
const COMMANDS: &str = "commands";

/// Processor time, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpu {
    pub(super) user_s: f64,
    pub(super) system_s: f64,
}

/// What one part of a side cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) cpu: Cpu,
    /// The largest resident set of one process of it, in bytes; 0: it was too short to be seen.
    pub(super) peak_bytes: u64,
}

/// What a side cost, by part.
pub(super) type Costs = BTreeMap<&'static str, Cost>;

/// A measurement under way.
pub(super) struct Meter {
    roots: Vec<(&'static str, u32, Cpu)>,
    reaped: Cpu,
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    looker: Option<JoinHandle<()>>,
}

impl Meter {
    /// Begins, with these processes that run through.
    pub(super) fn start(roots: &[(&'static str, u32)]) -> io::Result<Self> {
        let mut counted = Vec::new();
        for (name, pid) in roots {
            forget_peak(*pid);
            counted.push((*name, *pid, with_reaped(*pid)?));
        }
        let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        // What runs already belongs to other sides, or is a root and counts for itself.
        let others = children(std::process::id());
        let looker = std::thread::spawn({
            let (over, seen, roots) = (over.clone(), seen.clone(), roots.to_vec());
            move || look(&over, &seen, &roots, &others)
        });
        let reaped = times(std::process::id())?.1;
        Ok(Self { roots: counted, reaped, over, seen, looker: Some(looker) })
    }

    /// Ends.
    pub(super) fn stop(mut self) -> io::Result<Costs> {
        self.end_looker();
        let mut costs = Costs::new();
        for (name, pid, before) in &self.roots {
            let cpu = with_reaped(*pid)?.minus(*before);
            costs.insert(name, Cost { cpu, peak_bytes: peak_bytes(*pid).unwrap_or(0) });
        }
        let cpu = times(std::process::id())?.1.minus(self.reaped);
        costs.insert(COMMANDS, Cost { cpu, peak_bytes: 0 });
        for (name, peak) in std::mem::take(&mut *lock(&self.seen)) {
            let cost = costs.entry(name).or_default();
            cost.peak_bytes = cost.peak_bytes.max(peak);
        }
        Ok(costs)
    }

    fn end_looker(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(looker) = self.looker.take() {
            looker.thread().unpark();
            // It has nothing to tell but what is in `seen`.
            let _ = looker.join();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end_looker();
    }
}

impl Cpu {
    fn minus(self, other: Self) -> Self {
        Self { user_s: self.user_s - other.user_s, system_s: self.system_s - other.system_s }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { user_s: self.user_s + other.user_s, system_s: self.system_s + other.system_s }
    }

    pub(super) fn total_s(self) -> f64 {
        self.user_s + self.system_s
    }
}

impl Cost {
    pub(super) fn json(self) -> Value {
        json!({ "user_s": self.cpu.user_s, "system_s": self.cpu.system_s, "peak_bytes": self.peak_bytes })
    }
}

/// The most memory that a process held since its start, or since [`forget_peak`]: `VmHWM`, in bytes.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// `VmHWM` begins anew at what is held now (proc(5), `clear_refs`); where that may not be written it goes on.
fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Of a process itself, and of those that it started and waited for.
fn times(pid: u32) -> io::Result<(Cpu, Cpu)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "expected the fields of proc(5) in stat");
    // Its name, in parentheses, may hold anything; utime is the twelfth field after it.
    let rest = stat.rsplit_once(')').ok_or_else(wrong)?.1;
    let ticks: Vec<f64> =
        rest.split_whitespace().skip(11).take(4).filter_map(|text| text.parse().ok()).collect();
    match ticks.as_slice() {
        [user, system, reaped_user, reaped_system] => {
            Ok((cpu(*user, *system), cpu(*reaped_user, *reaped_system)))
        }
        _ => Err(wrong()),
    }
}

fn cpu(user: f64, system: f64) -> Cpu {
    Cpu { user_s: user / TICKS_PER_SECOND, system_s: system / TICKS_PER_SECOND }
}

fn with_reaped(pid: u32) -> io::Result<Cpu> {
    times(pid).map(|(own, reaped)| own.plus(reaped))
}

/// Looks at the memory of all that is started below the bench and its roots, until it is over.
fn look(
    over: &AtomicBool,
    seen: &Mutex<BTreeMap<&'static str, u64>>,
    roots: &[(&'static str, u32)],
    others: &[u32],
) {
    while !over.load(Ordering::Relaxed) {
        for (name, pid) in roots {
            look_below(*pid, name, others, seen);
        }
        look_below(std::process::id(), COMMANDS, others, seen);
        std::thread::park_timeout(LOOK_EVERY);
    }
}

fn look_below(pid: u32, name: &'static str, others: &[u32], seen: &Mutex<BTreeMap<&'static str, u64>>) {
    for child in children(pid).into_iter().filter(|child| !others.contains(child)) {
        if let Some(peak) = peak_bytes(child) {
            let mut seen = lock(seen);
            let most = seen.entry(name).or_default();
            *most = peak.max(*most);
        }
        look_below(child, name, others, seen);
    }
}

/// Linux tells them by the thread that started them.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|text| text.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A process that is waited for counts with the commands, by its time and by the memory it held.
    #[test]
    fn what_a_command_cost_is_seen() {
        let meter = Meter::start(&[]).unwrap();
        let script =
            "x=$(head -c 20000000 /dev/zero | tr '\\0' a); i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        assert!(Command::new("sh").args(["-c", script]).status().unwrap().success());
        let costs = meter.stop().unwrap();
        let cost = costs.get(COMMANDS).copied().unwrap();
        assert!(cost.cpu.total_s() > 0.0, "it took time: {cost:?}");
        assert!(cost.peak_bytes > 20_000_000, "it held 20 MB: {cost:?}");
    }
}
