//! What is on the screen, cell by cell, and what keys do to it.

use std::time::Duration;

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::{Color, Modifier},
};
use serde_json::{Value, json};

use super::{
    draw::{Look, draw, plain},
    keys::{Wish, press},
    model::{Dialog, Link, Model, Snapshot, Sort},
    text::{clean, elapsed, fit, short},
    tree,
};
use crate::{engine::Order, report::ProcessTotal};

fn task(name: &str, spent: &str, cap: Option<&str>) -> Value {
    json!({
        "task": name, "state": "running", "cap_usd": cap, "spent_usd": spent, "ceilings_usd": "0", "held_usd": "0.01", "lent_usd": "0",
        "in_flight": 1, "calls": 12, "exchanges": 13, "unpriced": 0, "unread": 0, "processes": 3, "waiting": 0,
        "coverage": {"sent_bytes": 0, "read_bytes": 0, "connections": 0, "uncovered": 0, "estimated_usd": "0"},
        "counts": {"sub_agents_alive": 2}, "incidents": 0, "trouble": null, "cgroup": "/x",
    })
}

fn snapshot(tasks: &[Value]) -> Snapshot {
    let status = json!({"daemon": {"version": "1.2.3", "pid": 7, "uptime_s": 3720, "ready": true}, "tasks": tasks});
    serde_json::from_value(status).expect("a snapshot")
}

fn model(tasks: &[Value]) -> Model {
    let mut model = Model::default();
    model.seen(snapshot(tasks), Duration::ZERO);
    model
}

fn screen(model: &Model, look: Look, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(model, look, frame.area(), frame.buffer_mut())).expect("a frame");
    terminal.backend().buffer().clone()
}

fn line(buffer: &Buffer, y: u16) -> String {
    (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    (0..buffer.area.height).map(|y| line(buffer, y)).collect()
}

/// The lines that contain a text.
fn with<'a>(lines: &'a [String], text: &str) -> Vec<&'a String> {
    lines.iter().filter(|line| line.contains(text)).collect()
}

fn key(model: &mut Model, code: KeyCode) -> Option<Wish> {
    press(model, KeyEvent::new(code, KeyModifiers::NONE))
}

fn ordered(wish: Option<Wish>) -> (String, Order) {
    let Some(Wish::Order(order)) = wish else { panic!("no order: {wish:?}") };
    (order.account.to_string(), order.order)
}

#[test]
fn every_column_of_a_task_is_where_its_header_says() {
    let model = model(&[task("nightly", "0.75", Some("2"))]);
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    let header = with(&seen, "TASK")[0];
    let row = with(&seen, "> nightly")[0];
    let end = |name: &str| header.find(name).expect(name) + name.len();
    assert!(row[..end("SPENT")].ends_with(" $0.7500"), "{row}");
    assert!(row[..end("$/HOUR")].ends_with(" -"), "nobody has seen how fast it spends: {row}");
    assert!(row[..end("CALLS")].ends_with(" 12"), "{row}");
    assert!(row[header.find("STATE").expect("STATE")..].starts_with("running "), "{row}");
    // 37.5 %: three of ten.
    assert!(row[header.find("BUDGET").expect("BUDGET")..].starts_with("[###.......] 37% "), "{row}");
    assert_eq!(with(&seen, "spent $0.75 of $2, held $0.01, lent $0").len(), 1);
    assert_eq!(with(&seen, "3 processes, 1 calls in flight, 2 sub-agents alive").len(), 1);
    assert!(seen[0].contains("tollgate 1.2.3  up 1 h 02 min  1 of 1 tasks run  spent $0.7500  -"), "{}", seen[0]);
    assert!(seen[23].starts_with("q quit  ? help  arrows select  p pause"), "{}", seen[23]);
}

#[test]
fn what_counts_at_a_ceiling_fills_the_bar_and_is_said() {
    let mut line = task("a", "1", Some("4"));
    line["ceilings_usd"] = json!("2.5");
    line["unpriced"] = json!(1);
    let seen = lines(&screen(&model(&[line]), Look::Plain, 80, 24));
    assert_eq!(with(&seen, "[########..] 87%").len(), 1);
    assert_eq!(with(&seen, "UNPRICED: 1 calls; they count $2.5 toward the cap").len(), 1);
    let seen = lines(&screen(&model(&[task("over", "0.0521", Some("0.05"))]), Look::Plain, 80, 24));
    assert_eq!(with(&seen, "[##########] 104%").len(), 1);
    let seen = lines(&screen(&model(&[task("free", "1", None)]), Look::Plain, 80, 24));
    assert_eq!(with(&seen, "no cap").len(), 2, "in the table and below");
}

#[test]
fn a_burn_rate_is_what_was_spent_in_the_last_minute() {
    let mut model = model(&[task("a", "1", None), task("b", "5", None)]);
    let at = |seconds| Duration::from_secs(seconds);
    model.seen(snapshot(&[task("a", "1", None), task("b", "5", None)]), at(4));
    let a = "a".parse().expect("a task");
    assert_eq!(model.rate(&a), None, "four seconds are too few");
    model.seen(snapshot(&[task("a", "1.2", None), task("b", "5", None)]), at(10));
    // $0.20 in 10 s.
    assert_eq!(model.rate(&a).expect("a rate").to_string(), "72");
    assert_eq!(model.tasks[0].task, a, "what burns faster comes first");
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    assert!(with(&seen, "  a ")[0].contains("$72.0000") || with(&seen, "> a ")[0].contains("$72.0000"), "{seen:#?}");
    model.seen(snapshot(&[task("a", "1.2", None)]), at(71));
    model.seen(snapshot(&[task("a", "1.2", None)]), at(77));
    assert_eq!(model.rate(&a).expect("a rate").to_string(), "0", "a minute ago is over");
}

#[test]
fn the_selection_stays_with_its_task_when_lines_move() {
    let mut model = model(&[task("one", "3", None), task("two", "2", None), task("three", "1", None)]);
    for marked in ["*SPENT", "*BUDGET", "*TASK", "*$/HOUR", "*SPENT"] {
        key(&mut model, KeyCode::Char('s'));
        let seen = lines(&screen(&model, Look::Plain, 80, 24));
        assert!(seen[1].contains(marked) && seen[1].matches('*').count() == 1, "{}", seen[1]);
    }
    assert_eq!(model.sort, Sort::Spent);
    key(&mut model, KeyCode::Home);
    key(&mut model, KeyCode::Down);
    assert_eq!(model.selected().expect("one").as_str(), "two");
    key(&mut model, KeyCode::Char('k'));
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    assert!(seen[22].starts_with("kill two for good? y/n"), "{}", seen[22]);
    // Before the answer, another task takes its line, and then it is gone.
    model.seen(snapshot(&[task("one", "3", None), task("two", "0.5", None), task("three", "1", None)]), Duration::ZERO);
    assert_eq!(model.selected().expect("one").as_str(), "two");
    model.seen(snapshot(&[task("one", "3", None), task("three", "1", None)]), Duration::ZERO);
    assert_eq!(ordered(key(&mut model, KeyCode::Char('y'))), ("two".into(), Order::Kill));
    assert_eq!(model.selected().expect("one").as_str(), "one");
}

#[test]
fn keys_order_what_they_say_and_nothing_without_a_yes() {
    let mut model = model(&[task("a", "1", Some("2"))]);
    assert_eq!(ordered(key(&mut model, KeyCode::Char('p'))), ("a".into(), Order::Pause));
    assert_eq!(ordered(key(&mut model, KeyCode::Char('r'))), ("a".into(), Order::Resume));
    for no in [KeyCode::Char('n'), KeyCode::Esc, KeyCode::Enter, KeyCode::Char('k')] {
        assert!(key(&mut model, KeyCode::Char('k')).is_none());
        assert!(key(&mut model, no).is_none());
        assert_eq!(model.dialog, None);
    }
    key(&mut model, KeyCode::Char('a'));
    for digit in "1.5x0".chars() {
        assert!(key(&mut model, KeyCode::Char(digit)).is_none());
    }
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    assert!(seen[22].starts_with("USD more for a: 1.50_ "), "{}", seen[22]);
    assert!(key(&mut model, KeyCode::Enter).is_none());
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    assert!(seen[22].starts_with("let a spend $1.5 more? y/n"), "{}", seen[22]);
    let (whom, order) = ordered(key(&mut model, KeyCode::Char('y')));
    assert_eq!((whom.as_str(), order), ("a", Order::Add { usd: "1.5".parse().expect("money") }));
    // What is no amount is asked for again.
    key(&mut model, KeyCode::Char('a'));
    key(&mut model, KeyCode::Char('0'));
    assert!(key(&mut model, KeyCode::Enter).is_none());
    assert!(matches!(model.dialog, Some(Dialog::Amount { .. })));
    key(&mut model, KeyCode::Backspace);
    key(&mut model, KeyCode::Enter);
    assert_eq!(ordered(key(&mut model, KeyCode::Char('Y'))), ("a".into(), Order::Approve));
    assert!(matches!(key(&mut model, KeyCode::Char('q')), Some(Wish::Quit)));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    key(&mut model, KeyCode::Char('a'));
    assert!(matches!(press(&mut model, interrupt), Some(Wish::Quit)), "also out of a question");
}

#[test]
fn without_tasks_no_key_orders_anything() {
    let mut model = model(&[]);
    for letter in "pkray".chars() {
        assert!(key(&mut model, KeyCode::Char(letter)).is_none());
    }
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    assert_eq!(with(&seen, "no tasks; start one with `tollgate run").len(), 1);
}

#[test]
fn a_daemon_that_is_away_is_said_in_one_line_and_what_was_seen_stays() {
    let mut model = model(&[task("a", "1", None)]);
    model.away("no daemon answers".into(), Duration::from_secs(10));
    model.away("no daemon answers".into(), Duration::from_secs(75));
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    assert!(seen[22].starts_with("DAEMON AWAY for 1 min, trying again: no daemon answers"), "{}", seen[22]);
    assert!(seen[0].contains(" AWAY"), "{}", seen[0]);
    assert_eq!(with(&seen, "> a ").len(), 1);
    model.seen(snapshot(&[task("a", "1", None)]), Duration::from_secs(80));
    assert_eq!(model.link, Link::Answers);
    assert!(with(&lines(&screen(&model, Look::Plain, 80, 24)), "AWAY").is_empty());
}

#[test]
fn hostile_text_reaches_no_terminal() {
    let hostile = "a\x1b[2J\r\n\u{9b}31m\u{202e}gpj.exe\u{200b}e\u{301}\u{e0041}\u{7}\t\u{ad}";
    let mut line = task("a", "1", None);
    line["state"] = json!(hostile);
    line["trouble"] = json!(hostile);
    let mut model = model(&[line]);
    let process = ProcessTotal {
        pid: 9,
        ppid: None,
        exe: format!("/tmp/{hostile}"),
        calls: 1,
        cost_usd: "1".parse().expect("money"),
    };
    model.processes(("a".parse().expect("a task"), vec![process]));
    model.message = Some(hostile.into());
    let buffer = screen(&model, Look::Colours, 80, 24);
    for cell in buffer.content() {
        let symbol = cell.symbol();
        let one = symbol.chars().next().expect("a symbol");
        assert_eq!(symbol.chars().count(), 1, "{symbol:?} is more than one letter");
        assert!((' '..='~').contains(&one), "{symbol:?}");
    }
    assert!(
        clean(hostile)
            .starts_with("a<1B>[2J<0D><0A><9B>31m<202E>gpj.exe<200B>e<301><E0041><7>".replace("<7>", "<07>").as_str())
    );
    assert!(clean(&"x".repeat(1 << 20)).len() <= 512, "bounded");
    assert_eq!(clean("naïve 日本"), "naïve 日本", "letters are letters");
}

#[test]
fn any_size_is_drawn() {
    let tasks: Vec<Value> = (0..50).map(|number| task(&format!("task-{number:02}"), "1", Some("2"))).collect();
    let mut model = model(&tasks);
    model.sort_by(Sort::Name);
    for dialog in [None, Some(Dialog::Help)] {
        model.dialog = dialog;
        for (width, height) in [(1, 1), (1, 24), (80, 1), (80, 2), (80, 3), (20, 5), (40, 10), (300, 100)] {
            screen(&model, Look::Colours, width, height);
        }
    }
    model.dialog = None;
    key(&mut model, KeyCode::End);
    let seen = lines(&screen(&model, Look::Plain, 80, 24));
    assert_eq!(with(&seen, "> task-49").len(), 1, "the selected one is in sight: {seen:#?}");
    assert!(with(&seen, " of 50 --")[0].contains("to 50 of 50"), "{seen:#?}");
    assert_eq!(with(&seen, "spent $1 of $2").len(), 1, "and so is what is said of it");
    key(&mut model, KeyCode::Home);
    assert_eq!(with(&lines(&screen(&model, Look::Plain, 80, 24)), "> task-00").len(), 1);
}

#[test]
fn colours_only_add() {
    let mut line = task("a", "1", Some("2"));
    line["state"] = json!("paused");
    let model = model(&[line]);
    let (plain, colours) = (screen(&model, Look::Plain, 80, 24), screen(&model, Look::Colours, 80, 24));
    assert_eq!(lines(&plain), lines(&colours));
    let has_colour =
        |buffer: &Buffer| buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
    assert!(!has_colour(&plain) && has_colour(&colours));
    // Modifiers are no colours.
    assert!(plain[(0, 0)].modifier.contains(Modifier::REVERSED));
}

fn process(pid: u32, ppid: u32, exe: &str, calls: u64) -> ProcessTotal {
    let cost_usd = if calls == 0 { "0" } else { "0.5" };
    ProcessTotal { pid, ppid: Some(ppid), exe: exe.into(), calls, cost_usd: cost_usd.parse().expect("money") }
}

#[test]
fn agents_are_below_those_that_started_them() {
    let processes = [
        process(1, 0, "/bin/sh", 0),
        process(10, 1, "/usr/bin/claude", 3),
        process(11, 10, "/bin/bash", 0),
        process(12, 11, "/usr/bin/codex", 1),
        process(13, 10, "/usr/bin/aider", 2),
        process(14, 13, "/usr/bin/git", 0),
    ];
    assert_eq!(
        tree::lines(&processes),
        [
            "claude (10): 3 calls, $0.5000",
            "|- bash (11): no calls",
            "|  `- codex (12): 1 call, $0.5000",
            "`- aider (13): 2 calls, $0.5000",
            "2 other processes, without calls",
        ]
    );
    // Ids that were used again can make anything of it.
    for parents in [[2, 1], [1, 2], [2, 2]] {
        let processes = [process(1, parents[0], "a", 1), process(2, parents[1], "b", 1)];
        assert!(tree::lines(&processes).len() <= 40);
    }
}

#[test]
fn amounts_and_times_are_short_and_never_round_to_nothing() {
    let usd = |text: &str| short(text.parse().expect(text));
    assert_eq!(usd("0"), "$0");
    assert_eq!(usd("0.000000000001"), "<$0.0001");
    assert_eq!(usd("0.05214625"), "$0.0521");
    assert_eq!(usd("1234.5678"), "$1234.57");
    assert_eq!(usd("1234567.8"), "$1234568");
    assert_eq!((elapsed(59).as_str(), elapsed(90_000).as_str()), ("59 s", "1 d 1 h"));
    assert_eq!(
        (fit("abcdef", 4).as_str(), fit("ab", 4).as_str(), fit("日本語", 5).as_str()),
        ("ab..", "ab  ", "日.. ")
    );
}

#[test]
fn a_frame_of_its_own_size_has_every_task() {
    let tasks: Vec<Value> = (0..50).map(|number| task(&format!("task-{number:02}"), "1", Some("2"))).collect();
    let text = plain(&model(&tasks), 80);
    assert_eq!(text.matches("task-").count(), 51, "each once, and the selected one below: {text}");
    assert!(text.contains("spent $1 of $2") && !text.contains("q quit"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 80 && !line.ends_with(' ')), "{text}");
}
