//! From instructions to lines, in all formats: of any bytes, and of tables that are in order.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::python::eval_stack::find_handler;
use stuckspy::python::find_line;
use stuckspy::python::layout::LineTableFormat;

const FORMATS: [LineTableFormat; 4] = [
    LineTableFormat::LnotabUnsigned,
    LineTableFormat::Lnotab,
    LineTableFormat::LineTable,
    LineTableFormat::Locations,
];

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let format = *u.choose(&FORMATS)?;
    let first_line: i32 = u.arbitrary()?;
    if u.arbitrary()? {
        let lasti: i32 = u.arbitrary()?;
        any_bytes(format, first_line, lasti, u.take_rest());
    } else {
        in_order(format, first_line, &mut u)?;
    }
    Ok(())
}

fn any_bytes(format: LineTableFormat, first_line: i32, lasti: i32, table: &[u8]) {
    let instructions = [lasti, lasti & 0xff, 0, -1, i32::MAX, i32::MIN];
    for instruction in instructions {
        let unit = u64::from(instruction.unsigned_abs());
        if let Some(handler) = find_handler(table, unit) {
            assert!(handler.start <= unit && unit - handler.start < handler.length);
        }
        let line = find_line(format, table, first_line, instruction);
        let reach = match format {
            LineTableFormat::LnotabUnsigned => table.len() as i64 / 2 * 255,
            LineTableFormat::Lnotab | LineTableFormat::LineTable => table.len() as i64 / 2 * 128,
            LineTableFormat::Locations => continue,
        };
        if let Some(line) = line {
            assert!(i64::from(line).abs_diff(i64::from(first_line)) <= reach as u64);
        }
    }
    assert_eq!(
        find_line(format, table, first_line, -7),
        u32::try_from(first_line).ok()
    );
}

/// A run of code units that have one line, or none.
struct Run {
    units: u8,
    delta: Option<i32>,
    kind: u8,
}

fn in_order(
    format: LineTableFormat,
    first_line: i32,
    u: &mut Unstructured<'_>,
) -> arbitrary::Result<()> {
    let mut runs = Vec::new();
    for _ in 0..u.int_in_range(0..=40)? {
        let delta = match u.int_in_range(0..=7)? {
            0 => None,
            1 => Some(u.arbitrary()?),
            2 => Some(i32::from(u.arbitrary::<i16>()?)),
            _ => Some(i32::from(u.arbitrary::<i8>()?)),
        };
        // One that would take thousands of pairs says nothing new.
        let delta = delta.map(|delta| {
            if format == LineTableFormat::Locations {
                delta
            } else {
                delta % 4096
            }
        });
        runs.push(Run {
            units: u.int_in_range(1..=8)?,
            delta,
            kind: u.arbitrary()?,
        });
    }
    let has_gaps = matches!(
        format,
        LineTableFormat::LineTable | LineTableFormat::Locations
    );
    let mut table = Vec::new();
    let mut lines = Vec::new();
    let mut line = i64::from(first_line);
    let mut last_units = 0;
    for run in &runs {
        let delta = match (format, run.delta) {
            (LineTableFormat::LnotabUnsigned, delta) => delta.unwrap_or(0).abs(),
            (_, delta) => delta.unwrap_or(0),
        };
        match format {
            LineTableFormat::LnotabUnsigned => {
                pairs(&mut table, 2 * last_units, delta, 0..=255, true)
            }
            LineTableFormat::Lnotab => pairs(&mut table, 2 * last_units, delta, -128..=127, true),
            LineTableFormat::LineTable if run.delta.is_none() => {
                table.extend_from_slice(&[2 * run.units, 0x80])
            }
            LineTableFormat::LineTable => {
                pairs(&mut table, 2 * run.units, delta, -127..=127, false)
            }
            LineTableFormat::Locations => location(&mut table, run, delta),
        }
        last_units = run.units;
        line += i64::from(delta);
        let shown = (run.delta.is_some() || !has_gaps).then_some(line);
        let shown = shown.and_then(|line| u32::try_from(line).ok());
        lines.extend(std::iter::repeat_n(shown, run.units.into()));
    }
    let is_in_bytes = matches!(
        format,
        LineTableFormat::LnotabUnsigned | LineTableFormat::Lnotab
    );
    for (unit, line) in (0..).zip(&lines) {
        let lasti = if is_in_bytes { 2 * unit } else { unit };
        assert_eq!(
            find_line(format, &table, first_line, lasti),
            *line,
            "{format:?} {table:?} {lasti}"
        );
    }
    if has_gaps {
        assert_eq!(
            find_line(format, &table, first_line, lines.len() as i32),
            None
        );
    }
    Ok(())
}

/// Pairs that move on by `bytes` and `delta`: the bytes in the first pair or in the last.
fn pairs(
    table: &mut Vec<u8>,
    bytes: u8,
    delta: i32,
    range: std::ops::RangeInclusive<i32>,
    is_first: bool,
) {
    let mut steps = Vec::new();
    let mut rest = delta;
    loop {
        let step = rest.clamp(*range.start(), *range.end());
        steps.push(step as u8);
        rest -= step;
        if rest == 0 {
            break;
        }
    }
    let carrier = if is_first { 0 } else { steps.len() - 1 };
    for (index, step) in steps.iter().enumerate() {
        table.extend_from_slice(&[if index == carrier { bytes } else { 0 }, *step]);
    }
}

fn location(table: &mut Vec<u8>, run: &Run, delta: i32) {
    let kind = match (run.delta, run.kind % 3) {
        (None, _) => 15,
        (Some(0), 0) => run.kind / 3 % 10,
        (Some(0..=2), 1) => 10 + delta as u8,
        (Some(_), 2) => 13,
        (Some(_), _) => 14,
    };
    table.push(0x80 | kind << 3 | (run.units - 1));
    if kind == 13 || kind == 14 {
        let magnitude = u64::from(delta.unsigned_abs());
        varint(table, magnitude << 1 | u64::from(delta < 0));
    }
    match kind {
        0..=9 => table.push(run.kind & 0x7f),
        10..=12 => table.extend_from_slice(&[run.kind & 0x7f, 1]),
        14 => [u64::from(run.kind), 3, 70]
            .into_iter()
            .for_each(|number| varint(table, number)),
        _ => {}
    }
}

fn varint(table: &mut Vec<u8>, mut value: u64) {
    while value >= 0x40 {
        table.push(0x40 | (value & 0x3f) as u8);
        value >>= 6;
    }
    table.push(value as u8);
}
