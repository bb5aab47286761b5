//! The matches on a packet's content: `string`, `u32` and `bpf`.

use super::argument::{self, Parsed};
use super::model::{Match, ModuleOption};
use super::spec::*;
use crate::net::Family;

/// The tests of `--u32`, with all numbers in hexadecimal and without blanks, as `iptables-save` prints them.
pub(super) fn u32_tests(text: &str, _: Family) -> Parsed<String> {
    let mut out = String::from("\"");
    let mut rest = text.trim_start();
    let bad = || format!("`{text}` is not a list of tests such as 0>>22&0x3c@8=0x1");
    let number = |rest: &mut &str, out: &mut String| -> Parsed<u64> {
        let (number, after) = argument::leading_number(rest).ok_or_else(bad)?;
        *rest = after.trim_start();
        out.push_str(&format!("{number:#x}"));
        Ok(number)
    };
    loop {
        number(&mut rest, &mut out)?;
        while !rest.starts_with('=') {
            let operator = ["&", "<<", ">>", "@"]
                .into_iter()
                .find(|one| rest.starts_with(one));
            let operator = operator.ok_or_else(bad)?;
            out.push_str(operator);
            rest = rest[operator.len()..].trim_start();
            number(&mut rest, &mut out)?;
        }
        loop {
            out.push_str(&rest[..1]);
            rest = rest[1..].trim_start();
            let first = number(&mut rest, &mut out)?;
            if let Some(after) = rest.strip_prefix(':') {
                let mark = out.len();
                rest = after.trim_start();
                out.push(':');
                // A range of one number is printed as the number.
                if number(&mut rest, &mut out)? == first {
                    out.truncate(mark);
                }
            }
            if !rest.starts_with(',') {
                break;
            }
        }
        match rest.strip_prefix("&&") {
            Some(after) => {
                out.push_str("&&");
                rest = after.trim_start();
            }
            None if rest.is_empty() => break,
            None => return Err(bad()),
        }
    }
    out.push('"');
    Ok(out)
}

/// The program of `--bytecode`: the number of instructions, then four numbers for each.
pub(super) fn bytecode(text: &str, _: Family) -> Parsed<String> {
    let mut parts = text.split(',');
    let count = parts
        .next()
        .and_then(|count| count.trim().parse::<usize>().ok());
    let instructions: Vec<&str> = parts.filter(|part| !part.trim().is_empty()).collect();
    if count != Some(instructions.len()) || !(1..=64).contains(&instructions.len()) {
        return Err("the program begins with the number of its instructions, 1 to 64".into());
    }
    let is_instruction = |part: &&str| {
        let numbers = part.split_ascii_whitespace();
        numbers.clone().count() == 4 && numbers.clone().all(|number| number.parse::<u32>().is_ok())
    };
    match instructions.iter().position(|part| !is_instruction(part)) {
        Some(index) => Err(format!("instruction {index} is not four numbers")),
        None => Ok(format!("\"{text}\"")),
    }
}

pub(super) static STRING: [Opt; 6] = [
    own("string").not().excludes(&["hex-string"]),
    own("hex-string").not().excludes(&["string"]),
    value("algo", Form::OneOf(&["bm", "kmp"])).required(),
    value("from", Form::Number(0, U16)),
    value("to", Form::Number(0, U16)),
    flag("icase"),
];

pub(super) fn string(given: &Arguments<'_, '_>) -> Made<Match> {
    let Some(one) = given.find("string").or_else(|| given.find("hex-string")) else {
        return Err(given.missing("you must specify `--string` or `--hex-string`".into()));
    };
    let text = given.text(one);
    let pattern = match one.option.name {
        "string" => Ok(text.as_bytes().to_vec()),
        _ => hex_pattern(text),
    };
    let pattern = pattern.and_then(|pattern| match pattern.len() {
        1..=128 => Ok(pattern),
        length => Err(format!(
            "the string has {length} bytes; 1 to 128 are possible"
        )),
    });
    let pattern = pattern.map_err(|message| given.problem(one, message))?;
    // `iptables-save` prints a pattern with bytes that are not printable in hexadecimal, all of it, and so one that ends
    // with a backslash.
    let printable =
        pattern.iter().all(|byte| matches!(byte, b' '..=b'~')) && pattern.last() != Some(&b'\\');
    let mut shown = String::from("\"");
    for &byte in &pattern {
        match (printable, byte) {
            (true, b'"' | b'\\') => shown.extend(['\\', char::from(byte)]),
            (true, _) => shown.push(char::from(byte)),
            (false, _) => shown.push_str(&format!("{byte:02x}")),
        }
    }
    shown.push('"');
    let (name, value) = match printable {
        true => ("string", shown),
        false => ("hex-string", format!("\"|{}|\"", shown.trim_matches('"'))),
    };
    let mut settings = vec![ModuleOption {
        name,
        negated: one.negated,
        value: value.into(),
    }];
    settings.extend(given.settings(&STRING)?);
    let offset = |name: &str| {
        given
            .text_of(name)
            .and_then(|text| argument::number(text, 0, U16).ok())
    };
    if offset("from").unwrap_or(0) > offset("to").unwrap_or(U16) {
        return Err(given.missing("--from is greater than --to".into()));
    }
    settings.retain(|one| !matches!((one.name, &*one.value), ("from", "0") | ("to", "65535")));
    Ok(other_match("string", settings))
}

/// Reads `--hex-string`: text with bytes in hexadecimal between bars; a backslash keeps the next character as it is.
fn hex_pattern(text: &str) -> Parsed<Vec<u8>> {
    let mut pattern = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => pattern.push(bytes.next().ok_or("nothing after the last backslash")?),
            b'|' => loop {
                let digit = |byte: Option<u8>| {
                    let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
                    digit.ok_or_else(|| format!("`{text}`: an invalid hexadecimal block"))
                };
                while bytes.next_if_eq(&b' ').is_some() {}
                match bytes.next() {
                    Some(b'|') => break,
                    high => pattern.push((digit(high)? * 16 + digit(bytes.next())?) as u8),
                }
            },
            byte => pattern.push(byte),
        }
    }
    Ok(pattern)
}
