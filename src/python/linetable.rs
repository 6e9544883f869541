//! From an instruction to its line: CPython's three formats, bytes to lines, no I/O.

use super::layout::LineTableFormat;

/// The line of the instruction at `lasti`, or `None` where the code has no line there.
///
/// `lasti` is counted as the version counts it: in bytes for the lnotab formats, in code units (2 bytes) for the
/// others; negative means that nothing was executed yet.
pub fn find_line(
    format: LineTableFormat,
    table: &[u8],
    first_line: i32,
    lasti: i32,
) -> Option<u32> {
    let line = match (format, u64::try_from(lasti)) {
        (_, Err(_)) => Some(i64::from(first_line)),
        (LineTableFormat::LnotabUnsigned, Ok(at)) => Some(lnotab(table, first_line, at, i64::from)),
        (LineTableFormat::Lnotab, Ok(at)) => Some(lnotab(table, first_line, at, |delta| {
            i64::from(delta.cast_signed())
        })),
        (LineTableFormat::LineTable, Ok(at)) => linetable(table, first_line, at * 2),
        (LineTableFormat::Locations, Ok(at)) => locations(table, first_line, at),
    };
    line.and_then(|line| u32::try_from(line).ok())
}

/// `Objects/lnotab_notes.txt` (3.9): pairs of (bytes of code, lines) to add up.
fn lnotab(table: &[u8], first_line: i32, lasti: u64, line_delta: impl Fn(u8) -> i64) -> i64 {
    let mut line = i64::from(first_line);
    let mut address = 0;
    for pair in table.chunks_exact(2) {
        address += u64::from(pair[0]);
        if address > lasti {
            break;
        }
        line += line_delta(pair[1]);
    }
    line
}

/// `Objects/lnotab_notes.txt` (3.10): pairs of (bytes of code, lines), where -128 lines mean that the range has none.
fn linetable(table: &[u8], first_line: i32, offset: u64) -> Option<i64> {
    const NO_LINE: i8 = -128;
    let mut line = i64::from(first_line);
    let mut end = 0;
    for pair in table.chunks_exact(2) {
        end += u64::from(pair[0]);
        let delta = pair[1].cast_signed();
        if delta != NO_LINE {
            line += i64::from(delta);
        }
        if offset < end {
            return (delta != NO_LINE).then_some(line);
        }
    }
    None
}

/// `Objects/locations.md` (3.11+; `InternalDocs/code_objects.md` from 3.13): entries that start with a byte whose
/// highest bit is set: 4 bits of kind, 3 bits of length in code units less one.
fn locations(table: &[u8], first_line: i32, unit: u64) -> Option<i64> {
    const NO_LOCATION: u8 = 15;
    const LONG: u8 = 14;
    const NO_COLUMN: u8 = 13;
    const ONE_LINE: std::ops::RangeInclusive<u8> = 10..=12;

    let mut line = i64::from(first_line);
    let mut end = 0;
    let mut rest = table;
    while let [head, tail @ ..] = rest {
        let kind = head >> 3 & 15;
        end += u64::from(head & 7) + 1;
        line = line.saturating_add(match kind {
            LONG | NO_COLUMN => signed_varint(tail),
            kind if ONE_LINE.contains(&kind) => i64::from(kind - ONE_LINE.start()),
            _ => 0,
        });
        if unit < end {
            return (kind != NO_LOCATION).then_some(line);
        }
        let next = tail.iter().position(|byte| byte & 0x80 != 0)?;
        rest = &tail[next..];
    }
    None
}

/// Six bits a byte, lowest first; bit 6 says that more follow; the lowest bit of the sum is the sign.
fn signed_varint(bytes: &[u8]) -> i64 {
    let mut value: u64 = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x3f) << (6 * index);
        if byte & 0x40 == 0 {
            break;
        }
    }
    let magnitude = (value >> 1).cast_signed();
    if value & 1 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compiled by 2.7 or 3.9: `def f():\n    a\n    b\n` and so on have one pair a line.
    #[test]
    fn lnotab_forwards_and_backwards() {
        let find = |format, table: &[u8], lasti| find_line(format, table, 10, lasti);
        let table = [0, 1, 8, 1, 4, 0xff];
        assert_eq!(find(LineTableFormat::Lnotab, &table, 0), Some(11));
        assert_eq!(find(LineTableFormat::Lnotab, &table, 7), Some(11));
        assert_eq!(find(LineTableFormat::Lnotab, &table, 8), Some(12));
        assert_eq!(find(LineTableFormat::Lnotab, &table, 12), Some(11));
        assert_eq!(find(LineTableFormat::LnotabUnsigned, &table, 12), Some(267));
        assert_eq!(find(LineTableFormat::Lnotab, &table, -1), Some(10));
        assert_eq!(find(LineTableFormat::Lnotab, &[], 5), Some(10));
    }

    #[test]
    fn linetable_knows_ranges_without_a_line() {
        let table = [4, 1, 2, 0x80, 6, 0xfe];
        let find = |lasti| find_line(LineTableFormat::LineTable, &table, 10, lasti);
        assert_eq!(find(0), Some(11));
        assert_eq!(find(1), Some(11));
        assert_eq!(find(2), None);
        assert_eq!(find(3), Some(9));
        assert_eq!(find(6), None);
        assert_eq!(find(-1), Some(10));
    }

    #[test]
    fn locations_of_every_kind() {
        let entry = |kind: u8, units: u8| 0x80 | kind << 3 | (units - 1);
        let table = [
            entry(0, 1),
            0x11, // short form: same line
            entry(11, 2),
            0,
            5, // one line on, with columns
            entry(13, 1),
            0x03, // one line back, no columns
            entry(14, 3),
            0x42 | 0x40,
            0x02,
            0,
            1,
            1, // long form: (2 + (2 << 6)) / 2 = 65 lines on
            entry(15, 1),
        ];
        let lines: Vec<_> = (0..9)
            .map(|unit| find_line(LineTableFormat::Locations, &table, 10, unit))
            .collect();
        let expected = [10, 11, 11, 10, 75, 75, 75].map(Some);
        assert_eq!(lines[..7], expected);
        assert_eq!(lines[7..], [None, None]);
    }

    #[test]
    fn deltas_that_add_up_to_more_than_there_is_are_taken() {
        // The long form with the largest number that ten bytes hold, again and again.
        let mut entry = vec![0x80 | 14 << 3];
        entry.extend([0x7e]);
        entry.extend([0x7f; 8]);
        entry.push(0x3f);
        let table = entry.repeat(64);
        assert_eq!(
            find_line(LineTableFormat::Locations, &table, i32::MAX, 63),
            None
        );
    }

    proptest! {
        #[test]
        fn any_table_is_taken(table in proptest::collection::vec(any::<u8>(), 0..300), first in any::<i32>(), lasti in any::<i32>()) {
            use LineTableFormat::*;
            for format in [LnotabUnsigned, Lnotab, LineTable, Locations] {
                let _ = find_line(format, &table, first, lasti);
            }
        }

        #[test]
        fn lines_that_grow_by_one_are_found(sizes in proptest::collection::vec(1_u8..=8, 1..60)) {
            // One entry a line, each of some code units, in the long-lived "one line on" form.
            let table: Vec<u8> = sizes.iter().flat_map(|units| [0x80 | 11 << 3 | (units - 1), 0, 1]).collect();
            let mut unit = 0;
            for (index, units) in sizes.iter().enumerate() {
                for _ in 0..*units {
                    let line = find_line(LineTableFormat::Locations, &table, 100, unit);
                    prop_assert_eq!(line, Some(101 + index as u32));
                    unit += 1;
                }
            }
            prop_assert_eq!(find_line(LineTableFormat::Locations, &table, 100, unit), None);
        }
    }
}
