//! Where answers go: results to stdout, progress and notes to stderr.

use crate::error::Error;
use crate::view;
use indicatif::{ProgressBar, ProgressStyle};
use karte_node::access::Sink;
use karte_node::command::Event;
use serde_json::Value;
use std::io::{self, Write};

/// What is done with a result.
pub(crate) type OnItem<'a> = dyn FnMut(Value) -> io::Result<()> + 'a;
/// What is done with the next bytes of a data result.
pub(crate) type OnData<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Writes text to stdout; a line end is added where it lacks one.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// One object, one line.
pub(crate) fn print_object(item: Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{item}")?;
    out.flush()
}

/// For commands that have no data result.
pub(crate) fn no_data(_: &[u8]) -> io::Result<()> {
    Ok(())
}

/// Takes what a running command tells.
pub(crate) struct Watch<'a> {
    bar: Option<Bar>,
    is_watched: bool,
    on_item: &'a mut OnItem<'a>,
    on_data: &'a mut OnData<'a>,
    /// The first error of the output. The command goes on: an import does not stop because `head` has seen enough.
    failed: Option<io::Error>,
}

struct Bar {
    bar: ProgressBar,
    what: String,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(is_watched: bool, on_item: &'a mut OnItem<'a>, on_data: &'a mut OnData<'a>) -> Self {
        Self { bar: None, is_watched, on_item, on_data, failed: None }
    }

    /// Clears the progress bar, and says whether all output went out.
    pub(crate) fn finish(self) -> io::Result<()> {
        if let Some(bar) = self.bar {
            bar.bar.finish_and_clear();
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn progress(&mut self, what: String, done: u64, total: u64, unit: &str) {
        if !self.is_watched {
            return;
        }
        if self.bar.as_ref().is_none_or(|bar| bar.what != what) {
            if let Some(old) = self.bar.take() {
                old.bar.finish_and_clear();
            }
            self.bar = Some(Bar { bar: bar_for(&what, unit), what });
        }
        let Some(Bar { bar, .. }) = &self.bar else { return };
        // The total of a sync grows while shelves are read.
        match total {
            0 => bar.unset_length(),
            total => bar.set_length(total),
        }
        bar.set_position(done);
    }

    fn note(&self, text: &str) {
        let text = view::clean(text);
        match &self.bar {
            _ if !self.is_watched => {}
            Some(Bar { bar, .. }) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn keep_error(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }
}

impl Sink for Watch<'_> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Item(_) if self.failed.is_some() => {}
            Event::Item(item) => {
                let result = (self.on_item)(item);
                self.keep_error(result);
            }
            Event::Progress { what, done, total, unit } => self.progress(what, done, total, &unit),
            Event::Note(text) => self.note(&text),
            // The end is told by what `access::run` returns; data comes through `data`.
            Event::Data(_) | Event::Done | Event::Failed(_) => {}
        }
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        (self.on_data)(bytes).inspect_err(|error| {
            let same = io::Error::new(error.kind(), error.to_string());
            self.failed.get_or_insert(same);
        })
    }
}

fn bar_for(what: &str, unit: &str) -> ProgressBar {
    let template = match unit {
        "bytes" => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        _ => "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new_spinner().with_style(style).with_message(view::clean(what))
}
