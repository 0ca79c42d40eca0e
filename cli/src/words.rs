//! Recovery words on a terminal: shown once, asked back, and typed in again when they are needed.
//!
//! They go to the terminal itself or to a file that was named, never into results, JSON or the log.

use karte_node::failure::Failure;
use karte_node::recovery::{WORDS, Words};
use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Longest line of words, in bytes. 1 KiB: 24 words of at most 8 letters, four times over.
const LINE_BYTES_MAX: usize = 1024;
/// How many words are asked back.
const ASKED_BACK: usize = 3;
/// Words in a line on the screen.
const IN_A_LINE: usize = 6;

/// Shows fresh words once: on the terminal, or in a file that was named.
pub(crate) fn show(words: &Words, file: Option<&Path>, asks_back: bool) -> Result<(), Failure> {
    match file {
        Some(path) => write_file(words, path),
        None => on_terminal(words, asks_back),
    }
}

fn write_file(words: &Words, path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::usage(format!("the words cannot be written to {}: {error}", path.display()))
            .next("Name a new file, on paper's way: print it and delete it.")
    };
    let mut line = Zeroizing::new(String::with_capacity(LINE_BYTES_MAX));
    for word in words.expose() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line.push('\n');
    if path == Path::new("-") {
        return std::io::stdout().write_all(line.as_bytes()).map_err(failed);
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_all())).map_err(failed)
}

fn on_terminal(words: &Words, asks_back: bool) -> Result<(), Failure> {
    if !std::io::stderr().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("the words are shown on a terminal, and there is none")
            .next("Run it on a terminal, or name a file: --words-file FILE (`-` for the output)."));
    }
    let list: Vec<&'static str> = words.expose().collect();
    let mut screen = std::io::stderr().lock();
    let mut say = |text: &str| {
        // A terminal that went away shows nothing more; the questions below then fail.
        let _ = screen.write_all(text.as_bytes()).and_then(|()| screen.flush());
    };
    say("Write these words on paper, in their order. They are shown once, and kept nowhere here:\n\n");
    for (line, part) in list.chunks(IN_A_LINE).enumerate() {
        for (place, word) in part.iter().enumerate() {
            say(&format!("{:>4} {word:<9}", line * IN_A_LINE + place + 1));
        }
        say("\n");
    }
    say("\n");
    match asks_back {
        true => ask_back(&list),
        false => Ok(()),
    }
}

/// Three places at random: whoever has not written them down cannot go on.
fn ask_back(list: &[&'static str]) -> Result<(), Failure> {
    for place in places()? {
        let typed = prompt(&format!("Word {}: ", place + 1))?;
        if list.get(place).is_none_or(|word| !typed.trim().eq_ignore_ascii_case(word)) {
            return Err(Failure::usage(format!("word {} was another one: nothing was changed", place + 1))
                .next("Repeat the command: it shows fresh words."));
        }
    }
    Ok(())
}

fn places() -> Result<Vec<usize>, Failure> {
    use karte_node::recovery::random_places;
    random_places(ASKED_BACK)
}

/// Words typed in, or on a descriptor.
pub(crate) fn ask(fd: Option<u32>) -> Result<Words, Failure> {
    let line = match fd {
        Some(fd) => read_line(&crate::passphrase::descriptor_path(fd))?,
        None => prompt(&format!("The {WORDS} words (they do not show): "))?,
    };
    Words::read(&line)
}

fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    rpassword::prompt_password(question).map(Zeroizing::new).map_err(|_| {
        Failure::usage("words are needed, and there is no terminal to ask on").next("Use --words-fd N.")
    })
}

fn read_line(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::usage(format!("the words cannot be read from {}: {error}", path.display()))
            .next("Give an open descriptor, for example: --words-fd 3 3<FILE")
    };
    // One buffer that never grows, so that no copy of it stays behind.
    let mut text = Zeroizing::new(String::with_capacity(2 * LINE_BYTES_MAX));
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LINE_BYTES_MAX as u64).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
