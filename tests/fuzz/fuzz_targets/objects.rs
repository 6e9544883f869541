//! Single objects of every layout: texts, bytes, ints, dicts, instances and types.
//!
//! The second byte says whether the rest is memory, in three regions, or what is woven and spoilt.
#![no_main]

use std::fmt::Debug;

use arbitrary::Unstructured;
use libfuzzer_sys::{Corpus, fuzz_target};
use stuckspy::model::Address;
use stuckspy::python::dict::DictEntry;
use stuckspy::python::layout::Layout;
use stuckspy::python::object::{MAX_TEXT, ObjectError, ObjectReader};
use stuckspy::sys::memory::PageView;
use stuckspy_fuzz::layouts;
use stuckspy_fuzz::memory::{FuzzMemory, IMAGE, STRETCH};
use stuckspy_fuzz::walk::check_text;
use stuckspy_fuzz::weave::{Weaver, any_text, rarely};

/// Most bytes of a `bytes` object that are asked for.
const MAX_BYTES: u64 = 4 << 20;
/// Most entries of a dict.
const MAX_ENTRIES: usize = 65_536;
/// Where the second and the third region start; the third goes to the end of all addresses.
const SECOND: Address = Address(0x10_0000);
const THIRD: Address = Address(0_u64.wrapping_sub(THIRD_SIZE as u64));
const THIRD_SIZE: usize = 0x4000;
/// Names that are asked for; the instances and dicts that are woven have the first two.
const NAMES: [&str; 3] = ["_name", "é", "absent"];

fuzz_target!(|bytes: &[u8]| -> Corpus { run(bytes).map_or(Corpus::Reject, |()| Corpus::Keep) });

fn run(bytes: &[u8]) -> arbitrary::Result<()> {
    let mut u = Unstructured::new(bytes);
    let layout = *u.choose(&layouts())?;
    if rarely(&mut u, 4)? {
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(Address(IMAGE + u64::from(u.int_in_range(0_u8..=63)?) * 8));
        }
        let memory = regions(u.take_rest());
        look_at_all(layout, &memory, &places);
        return Ok(());
    }
    let mut weaver = Weaver::new(layout);
    let mut woven = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        woven.push(weave(&mut weaver, &mut u)?);
    }
    let places = weaver.places().to_vec();
    let is_spoilt = weaver.spoil(&mut u, 6)?;
    let memory = weaver.finish(&mut u)?;
    if !is_spoilt {
        let reader = ObjectReader {
            memory: &PageView::new(&memory),
            layout,
        };
        woven.iter().for_each(|object| object.check(reader));
    }
    look_at_all(layout, &memory, &places);
    Ok(())
}

/// Three regions, with holes between them, of words that the bytes stand for: mostly small numbers and pointers, which a
/// fuzzer that only sees bytes would not come upon.
fn regions(bytes: &[u8]) -> FuzzMemory {
    let size = (bytes.len() / 2 * 8).next_multiple_of(4096) as u64;
    let word = |pair: &[u8]| {
        let number = u64::from(pair[0]) | u64::from(pair[1] & 0xf) << 8;
        match pair[1] >> 4 {
            0..=3 => number,
            4 => 1 << (number & 63),
            5 => number << 32 | number,
            6 => SECOND.0 + number * 8 % size,
            7 => THIRD.0 + number * 8 % THIRD_SIZE as u64,
            8 => STRETCH + number,
            9 => 0_u64.wrapping_sub(number),
            _ => IMAGE + number * 8 % size,
        }
    };
    let words: Vec<u8> = bytes
        .chunks_exact(2)
        .flat_map(|pair| word(pair).to_le_bytes())
        .collect();
    let (first, rest) = words.split_at(words.len() / 2);
    let (second, third) = rest.split_at(rest.len() / 2);
    let (mut second, mut third) = (second.to_vec(), third.to_vec());
    second.resize(second.len().next_multiple_of(4096), 0);
    let pattern = third.clone();
    third.resize(THIRD_SIZE, 0);
    FuzzMemory::new(first.to_vec(), pattern)
        .with(SECOND, second)
        .with(THIRD, third)
}

/// An object that was woven, with what it must say.
enum Woven {
    Text(Address, String),
    Bytes(Address, Vec<u8>),
    Int(Address, Option<u64>),
    Dict(Address, Vec<DictEntry>, [Option<Address>; 3]),
    Instance(Address, [Option<Address>; 3]),
    Type(Address, String),
}

fn weave(weaver: &mut Weaver<'_>, u: &mut Unstructured<'_>) -> arbitrary::Result<Woven> {
    let form: u8 = u.arbitrary()?;
    Ok(match u.int_in_range(0..=5)? {
        0 => {
            let (text, expected) = if rarely(u, 16)? {
                let text = "x".repeat(MAX_TEXT as usize + u.int_in_range(0..=1)?);
                let is_cut = text.len() as u64 > MAX_TEXT;
                let expected =
                    text[..MAX_TEXT as usize].to_owned() + if is_cut { "…" } else { "" };
                (text, expected)
            } else {
                let text = any_text(u)?;
                (text.clone(), text)
            };
            Woven::Text(weaver.text(&text, form), expected)
        }
        1 => {
            let bytes: Vec<u8> = u.arbitrary()?;
            Woven::Bytes(weaver.bytes(&bytes), bytes)
        }
        2 if u.arbitrary()? => {
            let magnitude = u.arbitrary::<u64>()? >> u.int_in_range(0..=63)?;
            let is_negative = u.arbitrary()?;
            let value = if is_negative {
                magnitude.wrapping_neg()
            } else {
                magnitude
            };
            Woven::Int(weaver.int(magnitude, is_negative, form), Some(value))
        }
        2 => {
            let bits = weaver.layout.int.digit_bits;
            let mut digits = Vec::new();
            for _ in 0..u.int_in_range(1..=7)? {
                let digit = match u.int_in_range(0..=2)? {
                    0 => 0,
                    1 => 1 << u.int_in_range(0..=bits - 1)?,
                    _ => u.arbitrary::<u32>()?,
                };
                digits.push(digit & ((1 << bits) - 1));
            }
            while digits.last() == Some(&0) {
                digits.pop();
            }
            // Horner's rule; what 64 bits can't hold is no number that is asked for.
            let value = digits.iter().rev().try_fold(0_u64, |value, digit| {
                value.checked_mul(1 << bits)?.checked_add(u64::from(*digit))
            });
            Woven::Int(weaver.long(&digits, false), value)
        }
        3 | 4 => {
            let is_instance = u.arbitrary()?;
            let mut entries = Vec::new();
            let mut values = [None; 3];
            for index in [1, 0] {
                let name = NAMES[index];
                // 2.7 has names of plain letters only.
                if (weaver.layout.version.0 == 2 && !name.is_ascii()) || rarely(u, 4)? {
                    continue;
                }
                let key = weaver.text(name, u.arbitrary()?);
                let value = weaver.int(index as u64, false, 1);
                values[index] = Some(value);
                entries.push((key, value));
            }
            for _ in 0..u.int_in_range(0..=3)? {
                let key = weaver.text("other", u.arbitrary()?);
                entries.push((key, Address::NULL));
            }
            if is_instance {
                Woven::Instance(weaver.instance(&entries, form), values)
            } else {
                let expected = entries.iter().map(|(key, value)| DictEntry {
                    key: *key,
                    value: *value,
                });
                let expected = expected.collect();
                Woven::Dict(weaver.dict(&entries, form), expected, values)
            }
        }
        _ => {
            let name = any_text(u)?;
            let shown = name.split('\0').next().unwrap_or_default().to_owned();
            Woven::Type(weaver.new_type(&name, 0, 16, 0, Address::NULL), shown)
        }
    })
}

impl Woven {
    fn check(&self, reader: ObjectReader<'_>) {
        let is_old = reader.layout.version.0 == 2;
        match self {
            Woven::Text(at, text) => {
                assert_eq!(reader.text(*at).as_ref(), Ok(text));
                refused(reader.unsigned(*at));
                refused(reader.dict_entries(*at));
            }
            Woven::Bytes(at, bytes) => {
                assert_eq!(reader.bytes(*at, MAX_BYTES).as_ref(), Ok(bytes));
                if !bytes.is_empty() {
                    assert!(reader.bytes(*at, bytes.len() as u64 - 1).is_err());
                }
                if !is_old {
                    refused(reader.text(*at));
                }
            }
            Woven::Int(at, value) => {
                assert_eq!(reader.unsigned(*at).ok(), *value);
                refused(reader.text(*at));
                refused(reader.bytes(*at, MAX_BYTES));
            }
            Woven::Dict(at, entries, values) => {
                let mut found = reader.dict_entries(*at).unwrap();
                if is_old {
                    found.retain(|entry| !entry.key.is_null());
                }
                assert_eq!(found, *entries);
                let found = NAMES.map(|name| reader.dict_value(*at, name).unwrap());
                assert_eq!(found, *values);
                refused(reader.text(*at));
            }
            Woven::Instance(at, values) => {
                let found = NAMES.map(|name| reader.attribute(*at, name).unwrap());
                assert_eq!(found, *values);
                refused(reader.dict_entries(*at));
            }
            Woven::Type(at, name) => assert_eq!(reader.type_name(*at).as_ref(), Ok(name)),
        }
    }
}

fn refused<T: Debug>(result: Result<T, ObjectError>) {
    assert!(
        matches!(result, Err(ObjectError::WrongType { .. })),
        "{result:?}"
    );
}

/// Asks everything of everything; a view of the memory must give what the memory gives.
fn look_at_all(layout: &Layout, memory: &FuzzMemory, places: &[Address]) {
    let view = PageView::new(memory);
    let stretch = [Address(STRETCH), Address(0), Address(u64::MAX - 7)];
    for place in places.iter().rev().take(12).chain(&stretch) {
        let direct = look(ObjectReader { memory, layout }, *place);
        assert_eq!(
            direct,
            look(
                ObjectReader {
                    memory: &view,
                    layout
                },
                *place
            )
        );
    }
}

fn look(reader: ObjectReader<'_>, at: Address) -> impl PartialEq + Debug + use<> {
    let text = reader.text(at).ok();
    text.iter().for_each(|text| check_text(text));
    let bytes = reader.bytes(at, MAX_BYTES).ok();
    assert!(bytes.iter().all(|bytes| bytes.len() as u64 <= MAX_BYTES));
    let entries = reader.dict_entries(at).ok();
    assert!(entries.iter().all(|entries| entries.len() <= MAX_ENTRIES));
    let name = reader.type_name(at).ok();
    assert!(name.iter().all(|name| name.chars().count() <= 256));
    let values = NAMES.map(|name| reader.dict_value(at, name).ok());
    let attributes = NAMES.map(|name| reader.attribute(at, name).ok());
    let found = values.iter().chain(&attributes).flatten().flatten();
    assert!(found.into_iter().all(|value| !value.is_null()));
    (
        text,
        bytes,
        entries,
        name,
        values,
        attributes,
        reader.unsigned(at).ok(),
    )
}
