//! rsync, scp and age over ssh: a server of our own on loopback, with keys made for it, that ends with the bench.
//!
//! Programs and their defaults are the machine's: ciphers are what ssh chooses. Not for: the user's own ssh; neither
//! their keys nor their settings are read.

use super::process::{Keeper, Process};
use super::tools::Tools;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the server may take until it listens, and until all of a finished connection has ended.
const WORD_MAX: Duration = Duration::from_secs(10);
/// Where sshd, run by root, goes to be without rights. Made by whatever starts it, also by us.
const EMPTY_FOLDER: &str = "/run/sshd";

/// The server, and how it is reached.
pub(super) struct Ssh {
    keeper: Keeper,
    server: Process,
    config: PathBuf,
    made_empty_folder: bool,
}

impl Ssh {
    /// Starts a server; its files lie in `folder`.
    pub(super) fn start(keeper: &Keeper, tools: &Tools, folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for key in ["host", "user"] {
            let mut command = Command::new(tools.path("ssh-keygen")?);
            command.args(["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f"]).arg(folder.join(key));
            keeper.run(&mut command)?;
        }
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        fs::copy(folder.join("user.pub"), folder.join("authorized"))?;
        let host = fs::read_to_string(folder.join("host.pub"))?;
        fs::write(folder.join("known"), format!("[127.0.0.1]:{port} {host}"))?;
        fs::write(folder.join("sshd_config"), server_config(folder, port))?;
        let config = folder.join("config");
        fs::write(&config, client_config(folder, port))?;
        let made_empty_folder = rustix::process::getuid().is_root() && fs::create_dir(EMPTY_FOLDER).is_ok();
        let mut command = Command::new(tools.path("sshd")?);
        command.args(["-D", "-e", "-f"]).arg(folder.join("sshd_config"));
        let server = keeper.start(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let ssh = Self { keeper: keeper.clone(), server, config, made_empty_folder };
        ssh.listens(port)?;
        ssh.keeper.run(ssh.command(tools, "ssh")?.args(["bench", "true"]))?;
        Ok(ssh)
    }

    /// The server's process id.
    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The client's settings.
    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// `ssh` or `scp`, with our settings.
    pub(super) fn command(&self, tools: &Tools, program: &str) -> io::Result<Command> {
        let mut command = Command::new(tools.path(program)?);
        command.arg("-F").arg(&self.config);
        Ok(command)
    }

    /// `rsync -a` of what lies in `from` into `to`, over ssh.
    pub(super) fn rsync(&self, tools: &Tools, from: &Path, to: &Path, fsync: bool) -> io::Result<Command> {
        let mut command = Command::new(tools.path("rsync")?);
        let shell = format!("'{}' -F '{}'", tools.path("ssh")?.display(), self.config.display());
        command.args(["-a", "-e", &shell]).args(fsync.then_some("--fsync"));
        command.arg(format!("{}/", from.display())).arg(format!("bench:{}/", to.display()));
        Ok(command)
    }

    /// Waits until the server has no connection any more: what they cost is its own only then.
    pub(super) fn rests(&self) -> io::Result<()> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let begun = Instant::now();
        while !fs::read_to_string(&path)?.trim().is_empty() && begun.elapsed() < WORD_MAX {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn listens(&self, port: u16) -> io::Result<()> {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if !self.server.is_alive() || begun.elapsed() > WORD_MAX {
                return Err(io::Error::other(format!("sshd does not listen: {}", self.server.said())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if self.made_empty_folder {
            // Not empty only if it is somebody else's by now.
            let _ = fs::remove_dir(EMPTY_FOLDER);
        }
    }
}

fn server_config(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey \"{folder}/host\"\nAuthorizedKeysFile \"{folder}/authorized\"\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\nLogLevel ERROR\nPrintMotd no\n"
    )
}

fn client_config(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "Host bench\nHostName 127.0.0.1\nPort {port}\nIdentityFile \"{folder}/user\"\nIdentitiesOnly yes\n\
         UserKnownHostsFile \"{folder}/known\"\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n\
         BatchMode yes\nLogLevel ERROR\n"
    )
}
