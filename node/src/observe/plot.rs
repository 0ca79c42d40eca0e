//! Plot: trends as one SVG picture.
//!
//! For: a picture that says the same without being seen (`title`, `desc`), with dates and unit on its axes; totals
//! as bars, measurements as lines that break where days have no data, outliers with a ring. The same trends give the
//! same bytes. Not for: computing; floats appear only as places on the paper.

use jiff::civil::Date;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::{Circle, PathElement, Rectangle, TriangleMarker};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::daily::{Day, How};
use super::trend::{Row, Trend};
use super::units::printed;

/// Width and height in SVG units: as wide as a page column, and it scales.
const SIZE: (u32, u32) = (860, 380);

/// Most series in a picture. 4: colours and shapes stay apart, and a blood pressure with its pulse has three.
const SERIES_MAX: usize = 4;

/// Blue, vermilion, green and purple of Okabe and Ito, who chose them for eyes that see few colours.
const COLOURS: [RGBColor; SERIES_MAX] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(226, 226, 226);
const OUTLIER: RGBColor = RGBColor(190, 0, 0);

/// Most days whose points are drawn one by one; beyond, the line alone is legible.
const POINTS_MAX: usize = 120;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlotError {
    #[error("expected at least one day with data, got none")]
    Empty,
    #[error("expected at most {SERIES_MAX} series, got {got}")]
    TooMany { got: usize },
    #[error("the picture could not be drawn")]
    Drawing,
}

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draw `trends`, all of the same days, under `title`. There is one axis, of the first one's unit; a trend in
/// another, such as the pulse beside a blood pressure, is named as not drawn.
pub fn svg(trends: &[Trend], title: &str) -> Result<String, PlotError> {
    let picture = Picture::of(trends)?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        picture.draw(&area, title).map_err(|_| PlotError::Drawing)?;
        area.present().map_err(|_| PlotError::Drawing)?;
    }
    accessible(&text, title, &picture.told()).ok_or(PlotError::Drawing)
}

/// What is drawn, and its bounds.
struct Picture<'t> {
    trends: Vec<&'t Trend>,
    not_drawn: Vec<&'t Trend>,
    rows: &'t [Row],
    unit: &'t str,
    low: f64,
    high: f64,
}

impl<'t> Picture<'t> {
    fn of(trends: &'t [Trend]) -> Result<Self, PlotError> {
        let first = trends.iter().find(|trend| days(trend).next().is_some()).ok_or(PlotError::Empty)?;
        let (trends, not_drawn): (Vec<_>, Vec<_>) = trends.iter().partition(|trend| trend.unit == first.unit);
        if trends.len() > SERIES_MAX {
            return Err(PlotError::TooMany { got: trends.len() });
        }
        let values = trends.iter().flat_map(|trend| days(trend)).map(|(_, day)| y(day));
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = padded(low, high, first.how);
        Ok(Self { trends, not_drawn, rows: &first.rows, unit: &first.unit, low, high })
    }

    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str) -> Result<(), Failed> {
        area.fill(&WHITE)?;
        let heading = ("sans-serif", 22).into_font().color(&INK);
        area.draw_text(title, &heading, (18, 14))?;
        let width = self.rows.len() as f64;
        let mut chart: Chart<'_> = ChartBuilder::on(area)
            .margin_top(if self.has_legend() { 56 } else { 44 })
            .margin_right(26)
            .margin_bottom(10)
            .margin_left(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.5..width - 0.5, self.low..self.high)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .x_labels(0)
            .y_labels(7)
            .y_label_formatter(&tick)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(("sans-serif", 15).into_font().color(&INK))
            .y_desc(printed(self.unit))
            .axis_desc_style(("sans-serif", 16).into_font().color(&INK))
            .draw()?;
        self.dates(area, &chart)?;
        for (trend, (colour, shape)) in self.trends.iter().zip(COLOURS.into_iter().zip(Shape::ALL)) {
            match trend.how {
                How::Counted => bars(&mut chart, trend, colour)?,
                How::Measured => line(&mut chart, trend, colour, shape)?,
            }
            outliers(&mut chart, trend)?;
        }
        self.legend(area)
    }

    /// Ticks under the days, drawn here because a calendar's steps are not those of numbers.
    fn dates(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, chart: &Chart<'_>) -> Result<(), Failed> {
        let style = ("sans-serif", 15).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
        let edge = |at: f64| chart.backend_coord(&(at, self.low));
        let (left, right) = (edge(-0.5), edge(self.rows.len() as f64 - 0.5));
        area.draw(&PathElement::new(vec![left, right], INK))?;
        let step = date_step(self.rows.len());
        for (at, row) in self.rows.iter().enumerate().step_by(step) {
            let (x, y) = edge(at as f64);
            area.draw(&PathElement::new(vec![(x, y), (x, y + 5)], INK))?;
            let year = at == 0 || row.date.day_of_year() as usize <= step;
            area.draw_text(&row.date.strftime("%-d %b").to_string(), &style, (x, y + 9))?;
            if year {
                area.draw_text(&row.date.year().to_string(), &style, (x, y + 25))?;
            }
        }
        Ok(())
    }

    fn has_legend(&self) -> bool {
        self.trends.len() > 1
            || !self.not_drawn.is_empty()
            || self.trends.iter().flat_map(|trend| days(trend)).any(|(_, day)| day.outlier)
    }

    fn legend(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Failed> {
        let style = ("sans-serif", 15).into_font().color(&INK);
        let mut x = 82;
        if self.trends.len() > 1 {
            for (trend, (colour, shape)) in self.trends.iter().zip(COLOURS.into_iter().zip(Shape::ALL)) {
                area.draw(&PathElement::new(vec![(x, 46), (x + 22, 46)], colour.stroke_width(2)))?;
                shape.draw(area, (x + 11, 46), colour)?;
                area.draw_text(&trend.display, &style, (x + 29, 39))?;
                x += 29 + advance(&trend.display) + 22;
            }
        }
        if self.trends.iter().flat_map(|trend| days(trend)).any(|(_, day)| day.outlier) {
            area.draw(&Circle::new((x + 8, 46), 7, OUTLIER.stroke_width(2)))?;
            area.draw_text("outlier", &style, (x + 22, 39))?;
            x += 22 + advance("outlier") + 22;
        }
        if let Some(names) = self.left_out() {
            area.draw_text(&format!("not drawn: {names}"), &style, (x, 39))?;
        }
        Ok(())
    }

    /// What has another unit, with that unit.
    fn left_out(&self) -> Option<String> {
        let named = |trend: &&Trend| format!("{} ({})", trend.display, printed(&trend.unit));
        let names: Vec<String> = self.not_drawn.iter().map(named).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The picture in sentences.
    fn told(&self) -> String {
        let sentence = |trend: &&Trend| {
            let low = days(trend).map(|(_, day)| (day.summary.main(), day.date)).min();
            let high = days(trend).map(|(_, day)| (day.summary.main(), std::cmp::Reverse(day.date))).max();
            let last = days(trend).last().map(|(_, day)| (day.summary.main(), day.date));
            let (Some(low), Some(high), Some(last)) = (low, high, last) else {
                return format!("{}: no data.", trend.display);
            };
            let missing = trend.rows.len() - days(trend).count();
            let odd = days(trend).filter(|(_, day)| day.outlier).count();
            let at = |(value, date): (Decimal, Date)| format!("{value} on {date}");
            format!(
                "{}: lowest {}, highest {}, last {}; days without data: {missing}; outliers: {odd}.",
                trend.display,
                at(low),
                at((high.0, high.1.0)),
                at(last)
            )
        };
        let span = self.rows.first().zip(self.rows.last()).map(|(a, b)| format!("{} to {}", a.date, b.date));
        let mut sentences: Vec<String> = self.trends.iter().map(sentence).collect();
        sentences.extend(self.left_out().map(|names| format!("Not drawn: {names}.")));
        format!("{}, in {}. {}", span.unwrap_or_default(), printed(self.unit), sentences.join(" "))
    }
}

/// Where a step of the drawing failed; there is one backend and it writes to memory, so nothing more is said.
struct Failed;

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for Failed {
    fn from(_: DrawingAreaErrorKind<E>) -> Self {
        Self
    }
}

/// Days with data, with their place.
fn days(trend: &Trend) -> impl Iterator<Item = (f64, &Day)> {
    trend.rows.iter().enumerate().filter_map(|(at, row)| Some((at as f64, row.day.as_ref()?)))
}

fn y(day: &Day) -> f64 {
    day.summary.main().to_f64().unwrap_or_default()
}

/// Totals stand on zero; measurements get a tenth of air.
fn padded(low: f64, high: f64, how: How) -> (f64, f64) {
    let air = if high > low { (high - low) * 0.1 } else { (high.abs() * 0.05).max(1.0) };
    match how {
        How::Counted => (low.min(0.0), high + air),
        How::Measured => (low - air, high + air),
    }
}

/// A tick's number, without the noise of floats.
fn tick(value: &f64) -> String {
    let rounded = Decimal::try_from(*value).unwrap_or_default().round_dp(3).normalize();
    let text = rounded.to_string();
    if text.len() < 5 || text.contains('.') { text } else { grouped(&text) }
}

/// Thousands apart by a narrow space, as SI writes them.
fn grouped(digits: &str) -> String {
    let mut out = String::new();
    for (at, c) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !out.ends_with('-') {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// Days between two dates on the axis, so that at most ten stand there.
fn date_step(days: usize) -> usize {
    const STEPS: [usize; 9] = [1, 2, 3, 7, 14, 28, 91, 182, 365];
    STEPS.into_iter().find(|step| days.div_ceil(*step) <= 10).unwrap_or(730)
}

/// About how wide a text of 15 units is: half an em for a Latin letter, a whole one for a Japanese.
fn advance(text: &str) -> i32 {
    text.chars().map(|c| if c.is_ascii() { 8 } else { 15 }).sum()
}

fn bars(chart: &mut Chart<'_>, trend: &Trend, colour: RGBColor) -> Result<(), Failed> {
    let bar = |(at, day): (f64, &Day)| {
        Rectangle::new([(at - 0.38, 0.0), (at + 0.38, y(day))], colour.mix(0.85).filled())
    };
    chart.draw_series(days(trend).map(bar))?;
    Ok(())
}

/// A line for each run of days with data.
fn line(chart: &mut Chart<'_>, trend: &Trend, colour: RGBColor, shape: Shape) -> Result<(), Failed> {
    let place = |(at, row): (usize, &Row)| Some((at as f64, y(row.day.as_ref()?)));
    let places: Vec<Option<(f64, f64)>> = trend.rows.iter().enumerate().map(place).collect();
    let runs = places.split(Option::is_none).map(|run| run.iter().flatten().copied().collect::<Vec<_>>());
    let runs: Vec<_> = runs.filter(|run| !run.is_empty()).collect();
    let drawn = runs.iter().filter(|run| run.len() > 1);
    let few = trend.rows.len() <= POINTS_MAX;
    let stroke = colour.stroke_width(if few { 2 } else { 1 });
    chart.draw_series(drawn.map(|run| PathElement::new(run.clone(), stroke)))?;
    // A day alone has no line, so it keeps its point.
    let points: Vec<_> = runs.into_iter().filter(|run| few || run.len() == 1).flatten().collect();
    match shape {
        Shape::Round => {
            chart.draw_series(points.into_iter().map(|at| Circle::new(at, 4, colour.filled())))?
        }
        Shape::Pointed => {
            chart.draw_series(points.into_iter().map(|at| TriangleMarker::new(at, 6, colour.filled())))?
        }
    };
    Ok(())
}

fn outliers(chart: &mut Chart<'_>, trend: &Trend) -> Result<(), Failed> {
    let ring = |(at, day): (f64, &Day)| Circle::new((at, y(day)), 9, OUTLIER.stroke_width(2));
    chart.draw_series(days(trend).filter(|(_, day)| day.outlier).map(ring))?;
    Ok(())
}

/// So that two lines are told apart without their colour.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Round,
    Pointed,
}

impl Shape {
    const ALL: [Self; SERIES_MAX] = [Self::Round, Self::Pointed, Self::Round, Self::Pointed];

    fn draw(
        self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        at: (i32, i32),
        colour: RGBColor,
    ) -> Result<(), Failed> {
        match self {
            Self::Round => area.draw(&Circle::new(at, 4, colour.filled()))?,
            Self::Pointed => area.draw(&TriangleMarker::new(at, 6, colour.filled()))?,
        }
        Ok(())
    }
}

/// The picture with its name and description, for those who hear it.
fn accessible(svg: &str, title: &str, told: &str) -> Option<String> {
    let (open, rest) = svg.split_once('>')?;
    let open = open.replacen("<svg ", "<svg role=\"img\" ", 1);
    Some(format!("{open}>\n<title>{}</title>\n<desc>{}</desc>{rest}", escaped(title), escaped(told)))
}

fn escaped(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control()).collect::<String>();
    plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
