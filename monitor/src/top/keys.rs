//! What keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Dialog, Model};
use crate::{
    api::GiveOrder,
    engine::Order,
    price::Money,
    task::{AccountName, TaskId},
};

/// What is to be done outside of the model.
#[derive(Debug)]
pub enum Wish {
    Quit,
    Order(GiveOrder),
}

/// Lines of a page.
const PAGE: isize = 10;
/// Digits that an amount may have.
const LONGEST_AMOUNT: usize = 20;

/// Takes one key.
pub fn press(model: &mut Model, key: KeyEvent) -> Option<Wish> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c')).then_some(Wish::Quit);
    }
    match model.dialog.take() {
        None => command(model, key.code),
        Some(Dialog::Help) => None,
        Some(Dialog::Amount { task, text }) => amount(model, task, text, key.code),
        Some(Dialog::Confirm { task, order, .. }) if matches!(key.code, KeyCode::Char('y' | 'Y')) => {
            Some(give(task, order))
        }
        Some(Dialog::Confirm { .. }) => {
            model.message = Some("nothing was done".into());
            None
        }
    }
}

fn command(model: &mut Model, key: KeyCode) -> Option<Wish> {
    let selected = model.selected();
    match key {
        KeyCode::Char('q') => return Some(Wish::Quit),
        KeyCode::Char('?' | 'h') => model.dialog = Some(Dialog::Help),
        KeyCode::Char('s') => model.sort_by(model.sort.next()),
        KeyCode::Up => model.step(-1),
        KeyCode::Down => model.step(1),
        KeyCode::PageUp => model.step(-PAGE),
        KeyCode::PageDown => model.step(PAGE),
        KeyCode::Home => model.step(isize::MIN),
        KeyCode::End => model.step(isize::MAX),
        KeyCode::Esc => model.message = None,
        KeyCode::Char('p') => return selected.map(|task| give(task, Order::Pause)),
        KeyCode::Char('r') => return selected.map(|task| give(task, Order::Resume)),
        KeyCode::Char('a') => model.dialog = selected.map(|task| Dialog::Amount { task, text: String::new() }),
        KeyCode::Char('k') => model.dialog = selected.map(|task| confirm(task, Order::Kill)),
        _ => {}
    }
    None
}

fn amount(model: &mut Model, task: TaskId, mut text: String, key: KeyCode) -> Option<Wish> {
    match key {
        KeyCode::Esc => {
            model.message = Some("nothing was done".into());
            return None;
        }
        KeyCode::Enter if text.is_empty() => {
            model.dialog = Some(confirm(task, Order::Approve));
            return None;
        }
        KeyCode::Enter => match text.parse::<Money>() {
            Ok(usd) if usd > Money::ZERO => {
                model.dialog = Some(confirm(task, Order::Add { usd }));
                return None;
            }
            _ => model.message = Some(format!("`{text}` is no amount in USD of more than 0")),
        },
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(digit @ ('0'..='9' | '.')) if text.len() < LONGEST_AMOUNT => text.push(digit),
        _ => {}
    }
    model.dialog = Some(Dialog::Amount { task, text });
    None
}

fn confirm(task: TaskId, order: Order) -> Dialog {
    let question = match &order {
        Order::Add { usd } => format!("let {task} spend ${usd} more?"),
        Order::Approve => format!("let the calls of {task} go that wait for a yes?"),
        _ => format!("kill {task} for good?"),
    };
    Dialog::Confirm { task, order, question }
}

fn give(task: TaskId, order: Order) -> Wish {
    Wish::Order(GiveOrder { account: AccountName::Task(task), order })
}
