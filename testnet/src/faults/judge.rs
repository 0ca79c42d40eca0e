//! The judge's process: asked for a dump of one folder after another, replaced when it dies or hangs.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::dump::{self, Dump};

/// How long opening and reading a folder may take. 30 s: a thousand times what it takes, and less than a user waits.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Why there is no dump.
pub enum Broken {
    /// The process died: an abort, or a panic while panicking.
    Died,
    /// It did not answer in time.
    Hung,
}

/// A judge: its process is started when first asked.
pub struct Judge {
    program: PathBuf,
    running: Option<Running>,
}

struct Running {
    child: Child,
    ask: ChildStdin,
    answers: Receiver<String>,
}

impl Judge {
    /// A judge that runs `program`, which must call [`serve`] when told `faults-judge`.
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned(), running: None }
    }

    /// What is in the folder.
    pub fn dump(&mut self, dir: &Path, closes: bool) -> Result<Dump, Broken> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => start(&self.program),
        };
        let _ = writeln!(running.ask, "{} {}", u8::from(closes), dir.display());
        match running.answers.recv_timeout(TIME_MAX) {
            Ok(line) => {
                self.running = Some(running);
                Ok(serde_json::from_str(&line).expect("the judge answers with a dump"))
            }
            Err(error) => {
                end(running);
                Err(if error == RecvTimeoutError::Timeout { Broken::Hung } else { Broken::Died })
            }
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.running.take().into_iter().for_each(end);
    }
}

fn start(program: &Path) -> Running {
    let mut child = Command::new(program)
        .arg("faults-judge")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the harness can start its own program");
    let ask = child.stdin.take().expect("it was piped");
    let lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
    let (answer, answers) = sync_channel(1);
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| answer.send(line)));
    Running { child, ask, answers }
}

fn end(mut running: Running) {
    let _ = running.child.kill();
    let _ = running.child.wait();
}

/// The process itself: answers until nobody asks.
pub fn serve() -> ExitCode {
    dump::count_panics();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (closes, dir) = line.split_once(' ').unwrap_or(("0", &line));
        let answer = serde_json::to_string(&dump::dump(Path::new(dir), closes == "1"));
        println!("{}", answer.expect("a dump has only text for names"));
    }
    ExitCode::SUCCESS
}
