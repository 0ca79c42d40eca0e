//! The few attributes of an element that decide where it belongs.
//!
//! For: one element at a time, into texts that are used again for the next: an export has millions. Not for: values.

use crate::import::xml::Part;

#[derive(Debug, Default)]
pub(super) struct Said {
    /// `Record`, `Workout`, `ActivitySummary`, ...
    pub(super) element: String,
    /// All below as they are written, or empty.
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) unit: String,
    pub(super) start: String,
    pub(super) end: String,
}

impl Said {
    pub(super) fn clear(&mut self) {
        let all = [
            &mut self.element,
            &mut self.kind,
            &mut self.source,
            &mut self.unit,
            &mut self.start,
            &mut self.end,
        ];
        all.into_iter().for_each(String::clear);
    }

    pub(super) fn hear(&mut self, part: &Part<'_>) {
        match *part {
            Part::Element { depth: 0, name } => self.element.push_str(name),
            Part::Attribute { depth: 0, name, value } => {
                let place = match name {
                    "type" | "workoutActivityType" => &mut self.kind,
                    "sourceName" => &mut self.source,
                    "unit" => &mut self.unit,
                    "startDate" | "dateComponents" | "dateIssued" | "receivedDate" => &mut self.start,
                    "endDate" => &mut self.end,
                    _ => return,
                };
                place.clear();
                place.push_str(value);
            }
            Part::Element { .. } | Part::Attribute { .. } => {}
        }
    }
}
