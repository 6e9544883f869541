//! Numbers as text: ints of any size, and floats as `repr` writes them. Nothing else is read.

use super::object::{ObjectError, ObjectReader, offset};
use crate::model::{Address, Value};
use crate::sys::memory::ReadError;

/// Most digits of an int that are read: 2,040 bits of 30-bit digits.
const MAX_SHOWN_DIGITS: u64 = 68;

/// The int at `object`, whose type was looked at, as a value.
pub(super) fn int_value(reader: ObjectReader<'_>, object: Address) -> Result<Value, ObjectError> {
    let layout = &reader.layout.int;
    let (count, is_negative) = reader.digit_count(object)?;
    let digit_bits = u64::from(layout.digit_bits);
    if count > MAX_SHOWN_DIGITS {
        // It is as long as it says, or garbage: then its last digit can't be read.
        let width = if layout.digit_bits > 16 { 4 } else { 2 };
        let last = layout
            .digits
            .offset()
            .checked_add(count.saturating_sub(1).saturating_mul(width))
            .ok_or(ReadError::Unmapped(object))?;
        reader.memory.read(offset(object, last)?, &mut [0; 2])?;
        return Ok(Value::Int {
            text: None,
            bits: count.saturating_mul(digit_bits),
        });
    }
    let width = if layout.digit_bits > 16 { 4 } else { 2 };
    let bytes = reader.memory.read_vec(
        offset(object, layout.digits.offset())?,
        count * width,
        MAX_SHOWN_DIGITS * 4,
    )?;
    let mut digits: Vec<u32> = bytes
        .chunks_exact(width as usize)
        .map(|digit| {
            digit
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u32::from(*byte))
        })
        .collect();
    if digits.iter().any(|digit| digit >> layout.digit_bits != 0) {
        return Err(ObjectError::Garbage {
            address: object,
            what: "digit of an int",
        });
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let top = digits
        .last()
        .map_or(0, |digit| u64::from(u32::BITS - digit.leading_zeros()));
    let bits = (digits.len() as u64).saturating_sub(1) * digit_bits + top;
    let sign = if is_negative && bits > 0 { "-" } else { "" };
    let magnitude = if bits <= 128 {
        let value = digits.iter().rev().fold(0_u128, |value, digit| {
            value << layout.digit_bits | u128::from(*digit)
        });
        value.to_string()
    } else {
        hexadecimal(&digits, layout.digit_bits)
    };
    Ok(Value::Int {
        text: Some(format!("{sign}{magnitude}")),
        bits,
    })
}

/// `0x…` of digits of `width` bits, lowest first.
fn hexadecimal(digits: &[u32], width: u8) -> String {
    let (mut nibbles, mut held, mut count) = (Vec::new(), 0_u64, 0_u8);
    for digit in digits {
        held |= u64::from(*digit) << count;
        count += width;
        while count >= 4 {
            nibbles.push((held & 0xf) as u32);
            held >>= 4;
            count -= 4;
        }
    }
    nibbles.push(held as u32);
    let letters = nibbles.iter().rev().skip_while(|nibble| **nibble == 0);
    let letters = letters.filter_map(|nibble| char::from_digit(*nibble, 16));
    format!("0x{}", letters.collect::<String>())
}

/// A float as `repr` shows it (`Python/pystrtod.c::format_float_short` with format `r`, the same in 2.7 and 3.x): the
/// shortest digits that give it back, with an exponent when that is below -4 or not below 16.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let known = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-300, "1.5e-300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, text) in known {
            assert_eq!(float_text(value), text);
        }
    }

    #[test]
    fn large_ints_are_written_in_hexadecimal() {
        assert_eq!(hexadecimal(&[0x3fff_ffff, 1], 30), "0x7fffffff");
        assert_eq!(hexadecimal(&[0x7fff, 0x7fff], 15), "0x3fffffff");
        assert_eq!(
            hexadecimal(&[1, 0, 0, 0, 1 << 10], 30),
            "0x400000000000000000000000000000001"
        );
    }
}
