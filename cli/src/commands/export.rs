use super::record::SelectArgs;
use crate::error::Error;
use crate::out_file::OutFile;
use crate::output;
use crate::parse::staff_or_user;
use crate::session::Session;
use crate::syncing::Syncing;
use crate::view;
use karte_node::command::Command;
use karte_node::failure::Failure;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Write records out, for other programs or for another node
///
/// `folder` writes every selected record as it came in, with its signed label, and the grants, releases and
/// receipts around them; `karte import FOLDER` on another node takes it with all signatures intact. `fhir-bundle` and
/// `ndjson` write FHIR resources into one file, `dicom` images into a folder by study and series.
///
/// What is written is no longer encrypted: the files are readable by you alone, keep them where that is enough.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte record export my-chart\n  \
    karte record export lab-2024.json --format fhir-bundle --category laboratory --from 2024 --until 2025\n  \
    karte record export - --format ndjson --kind fhir/Observation | jq -r .code.text\n  \
    karte record export ct --format dicom --kind dicom/CT")]
pub(crate) struct Args {
    /// A new folder, or a file for fhir-bundle and ndjson (`-` is the standard output)
    target: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Form::Folder)]
    format: Form,
    #[command(flatten)]
    select: SelectArgs,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    /// Who exports, as holders of received records will read [default: your user name on this machine]
    #[arg(long, value_name = "NAME")]
    staff: Option<String>,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Everything with its proofs, a file for each record
    Folder,
    /// FHIR resources as one Bundle
    FhirBundle,
    /// FHIR resources, one a line
    Ndjson,
    /// DICOM files as they came
    Dicom,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let filter = args.select.into_filter();
    let form = match args.format {
        Form::Folder => "folder",
        Form::FhirBundle => "bundle",
        Form::Ndjson => "ndjson",
        Form::Dicom => "dicom",
    };
    let command = Command::RecordExport { filter, form: form.into(), staff: staff_or_user(args.staff) };
    if matches!(args.format, Form::FhirBundle | Form::Ndjson) {
        let is_screen = args.target == Path::new("-");
        return one_file(
            session,
            command,
            &OutFile { output: Some(args.target), force: args.force },
            is_screen,
        );
    }
    let folder = RefCell::new(Folder::new(&args.target)?);
    let summary = RefCell::new(Value::Null);
    session.receive(
        command,
        &mut |item| match item.get("file").and_then(Value::as_str) {
            Some(file) => folder.borrow_mut().begin(file),
            None => {
                *summary.borrow_mut() = item;
                Ok(())
            }
        },
        &mut |bytes| folder.borrow_mut().write(bytes),
    )?;
    folder.into_inner().finish()?;
    told(session, summary.into_inner(), &args.target)
}

fn one_file(session: &Session, command: Command, out: &OutFile, is_screen: bool) -> Result<(), Error> {
    let mut target = out.open()?;
    let mut summary = Value::Null;
    session.receive(
        command,
        &mut |item| {
            if item.get("summary").is_some() {
                summary = item;
            }
            Ok(())
        },
        &mut |bytes| target.write(bytes),
    )?;
    match target.finish()? {
        Some((path, _)) => told(session, summary, &path),
        // The screen is the result; nothing else goes there.
        None if is_screen => Ok(()),
        None => told(session, summary, Path::new("-")),
    }
}

fn told(session: &Session, summary: Value, target: &Path) -> Result<(), Error> {
    let number = |name| summary.get(name).and_then(Value::as_u64).unwrap_or_default();
    let (records, left) = (number("records"), number("left_out"));
    if session.json {
        let target = target.to_string_lossy();
        output::print_object(json!({ "target": target, "records": records, "left_out": left }))?;
        return Ok(());
    }
    let left = match left {
        0 => String::new(),
        left => format!(" {} of other kinds were left out.", view::count(left, "record")),
    };
    let place = view::clean(&target.to_string_lossy());
    output::print(&format!("Wrote {} to {place}.{left}", view::count(records, "record")))
}

/// A folder that is being written, readable by its owner alone.
struct Folder {
    root: PathBuf,
    current: Option<io::BufWriter<File>>,
    syncing: Syncing,
}

impl Folder {
    fn new(root: &Path) -> Result<Self, Failure> {
        let is_free = match std::fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !is_free {
            return Err(Failure::usage(format!("{} is there already and not empty", root.display()))
                .next("Name a new folder."));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|error| {
            Failure::failed(format!("the folder {} cannot be made: {error}", root.display()))
        })?;
        let syncing = Syncing::start()
            .map_err(|error| Failure::failed(format!("no threads to sync files with: {error}")))?;
        Ok(Self { root: root.to_owned(), current: None, syncing })
    }

    fn begin(&mut self, file: &str) -> io::Result<()> {
        self.end_file()?;
        let path = Path::new(file);
        // The node names files; still, none of them may leave the folder.
        if !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file name that leaves the folder"));
        }
        let path = self.root.join(path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        self.current = Some(io::BufWriter::new(file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.current.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    /// The file at hand is written; it is synced while the next one is.
    fn end_file(&mut self) -> io::Result<()> {
        match self.current.take() {
            Some(file) => self.syncing.add(file.into_inner().map_err(io::IntoInnerError::into_error)?),
            None => Ok(()),
        }
    }

    /// Waits until every file is on the disk.
    fn finish(mut self) -> io::Result<()> {
        self.end_file()?;
        self.syncing.finish()
    }
}
