//! Text as it may be drawn, and amounts as they fit.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::price::Money;

/// More of one text is not looked at.
const LONGEST: usize = 512;

/// Text of others, safe to draw: whatever has no width of its own (controls, marks, changes of direction) is shown as its code point.
pub fn clean(text: &str) -> String {
    let mut clean = String::new();
    for letter in text.chars().take(LONGEST) {
        if letter.width().is_none_or(|width| width == 0) {
            // Writing to a string does not fail.
            write!(clean, "<{:02X}>", u32::from(letter)).ok();
        } else {
            clean.push(letter);
        }
    }
    clean
}

/// Cut or padded to so many columns.
pub fn fit(text: &str, columns: usize) -> String {
    let cut = cut(text, columns);
    let missing = columns.saturating_sub(cut.width());
    cut + &" ".repeat(missing)
}

/// The same, to the right.
pub fn fit_right(text: &str, columns: usize) -> String {
    let cut = cut(text, columns);
    " ".repeat(columns.saturating_sub(cut.width())) + &cut
}

/// What is cut off is said by two dots.
fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut room = columns.saturating_sub(2);
    let fits = |letter: &char| {
        let width = letter.width().unwrap_or_default();
        let fits = width <= room;
        room = room.saturating_sub(width);
        fits
    };
    let beginning: String = text.chars().take_while(fits).collect();
    beginning + if columns < 2 { "" } else { ".." }
}

/// An amount in a few columns. One that would round to nothing is not shown as $0.
pub fn short(amount: Money) -> String {
    let dollars = amount.pico_usd() / Money::PICO_PER_USD;
    if amount.is_zero() {
        "$0".into()
    } else if !amount.is_negative() && amount.pico_usd() < Money::PICO_PER_USD / 10_000 {
        "<$0.0001".into()
    } else if dollars.abs() < 100 {
        format!("${amount:.4}")
    } else if dollars.abs() < 100_000 {
        format!("${amount:.2}")
    } else {
        format!("${amount:.0}")
    }
}

/// A time that has passed.
pub fn elapsed(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
