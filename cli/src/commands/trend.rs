use crate::error::Error;
use crate::out_file::OutFile;
use crate::output;
use crate::parse::{days, staff_or_user};
use crate::session::Session;
use crate::view;
use karte_node::clock;
use karte_node::command::{Command, TrendQuery};
use std::path::PathBuf;

/// Show a value over time, from every record that has it
///
/// Takes the value from whatever form it came in: a FHIR Observation, a phone's export, a table. Where several
/// devices counted the same steps, each stretch of time counts once, from the better source. Days without a value
/// and values far from the others are marked, not hidden. What cannot be converted for certain is listed apart.
///
/// Records that others let you read are opened for it, and their holders are told who read them.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte trend weight --last 90d\n  \
    karte trend 2160-0 --unit umol/L --subject hana\n  \
    karte trend bp --last 30d --svg blood-pressure.svg")]
pub(crate) struct Args {
    /// A LOINC code, or one of weight, steps, bp, glucose, creatinine, ...
    code: String,
    /// Only the last days, as `90d` [default: everything]
    #[arg(long, value_name = "DAYS", value_parser = days)]
    last: Option<u32>,
    /// Show it in this UCUM unit, as `mmol/L` [default: the one most values are written in]
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Whose values: a contact, or `me`
    #[arg(long, value_name = "CONTACT")]
    subject: Option<String>,
    /// Also draw it into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
    /// Who reads, as holders of received records will see [default: your user name on this machine]
    #[arg(long, value_name = "NAME")]
    staff: Option<String>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    let query = TrendQuery {
        code: args.code,
        last_days: args.last,
        today: clock::wall_clock().strftime("%Y-%m-%d").to_string(),
        unit: args.unit,
        subject: args.subject,
        svg: args.svg.is_some(),
        staff: staff_or_user(args.staff),
    };
    let out = args.svg.map(|path| OutFile { output: Some(path), force: args.force });
    let mut target = out.as_ref().map(OutFile::open).transpose()?;
    let mut items = Vec::new();
    session.receive(
        Command::Trend(Box::new(query)),
        &mut |item| {
            items.push(item);
            Ok(())
        },
        &mut |bytes| target.as_mut().map_or(Ok(()), |target| target.write(bytes)),
    )?;
    if let Some((path, _)) = target.map(|target| target.finish()).transpose()?.flatten()
        && session.is_watched()
    {
        eprintln!("Drew {}.", path.display());
    }
    if session.json {
        return Ok(items.into_iter().try_for_each(output::print_object)?);
    }
    output::print(&view::trend(&items))
}
