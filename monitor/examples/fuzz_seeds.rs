//! Makes the seeds of `cargo xtask fuzz` from recorded exchanges: `fuzz_seeds CORPUS.jsonl.gz DIRECTORY`.

#[path = "../fuzz/src/conversation.rs"]
#[expect(dead_code, reason = "the targets take conversations apart")]
mod conversation;

use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
};

use base64::Engine as _;
use monitor::wire::Direction;
use serde_json::Value;

/// Seeds of one kind: more of the same teach nothing.
const OF_A_KIND: usize = 12;
/// Bytes of a seed.
const LONGEST: usize = 6000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(corpus), Some(seeds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: fuzz_seeds CORPUS.jsonl.gz DIRECTORY".into());
    };
    let seeds = Path::new(&seeds);
    by_hand(seeds)?;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (number, line) in
        BufReader::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(File::open(corpus)?))).lines().enumerate()
    {
        let line = line?;
        let record: Value = serde_json::from_str(&line)?;
        let kind = format!("{} {} {}", record["provider"], record["endpoint"], record["body_format"]);
        let count = seen.entry(kind).or_default();
        let (request, answer) = (message(&record["request"], true)?, message(&record["response"], false)?);
        if request.len() + answer.len() > LONGEST || *count >= OF_A_KIND {
            continue;
        }
        *count += 1;
        let script = vec![(Direction::Request, request), (Direction::Response, answer)];
        for target in ["http1", "pipeline"] {
            save(seeds, target, &number.to_string(), &conversation::unscript(&script))?;
        }
        save(seeds, "replay", &number.to_string(), line.as_bytes())?;
        let body = decoded(&record["response"]["body"])?;
        match record["body_format"].as_str() {
            Some("eventstream") => save(seeds, "event_stream", &number.to_string(), &body)?,
            Some("sse") => save(seeds, "sse", &number.to_string(), &[b"\0", &body[..]].concat())?,
            Some("ndjson") => save(seeds, "sse", &number.to_string(), &[b"\x01", &body[..]].concat())?,
            _ if body.starts_with(&[0x1f, 0x8b]) => {
                save(seeds, "coding", &number.to_string(), &[b"\0", &body[..]].concat())?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn save(seeds: &Path, target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let directory = seeds.join(target);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join(name), bytes)
}

/// What no recording has.
fn by_hand(seeds: &Path) -> std::io::Result<()> {
    // Settings, a request, its answer in two frames.
    let http2 = vec![
        (Direction::Request, b"\0\0\0\x04\0\0\0\0\0\0\0\x06\x01\x05\0\0\0\x01\x83\x84\x87\x41\x01h".to_vec()),
        (
            Direction::Response,
            b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x08\0\0\0\x01\0a\0\0\x01\0\x01\0\0\0\x01b"
                .to_vec(),
        ),
        (Direction::Response, b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\x03\0\0\0\x07".to_vec()),
    ];
    save(seeds, "http2", "hand", &conversation::unscript(&http2))?;
    let websocket = vec![
        (Direction::Request, b"\x81\x82\0\0\0\0{}\x89\x80\0\0\0\0".to_vec()),
        (Direction::Response, b"\x01\x01{\x89\0\x80\x01}\xc1\x04\xaa\xae\x05\0".to_vec()),
    ];
    for way in 0..4 {
        save(seeds, "websocket", &format!("hand-{way}"), &[&[way][..], &conversation::unscript(&websocket)].concat())?;
    }
    let form = b"--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--X\r\nContent-Disposition: form-data; name=f; filename=\"a\"\r\n\r\nRIFF\r\n--X--\r\n";
    save(seeds, "form", "hand", form)?;
    let book = r#"{"source": {"package": "p", "version": "1"}, "units": {"input_tokens": {"per": 1000000, "price_key": "input_mtok",
        "dimensions": {}}}, "providers": [{"id": "v", "api_pattern": "https://api\\.openai", "models": [{"id": "gpt-4o", "match": {"or":
        [{"equals": "gpt-4o"}, {"starts_with": "gpt-"}]}, "prices": [{"constraint": null, "prices": {"input_mtok": "1"}}]}]}]}"#;
    save(seeds, "price_book", "hand", book.as_bytes())?;
    let zstd = b"\x03\x28\xb5\x2f\xfd\x04\x00\x19\x00\x00abc";
    save(seeds, "coding", "zstd", zstd)?;
    save(seeds, "coding", "br", b"\x02\x0b\x01\x80abc\x03")
}

fn decoded(body: &Value) -> Result<Vec<u8>, base64::DecodeError> {
    base64::engine::general_purpose::STANDARD.decode(body.as_str().unwrap_or_default())
}

fn message(recorded: &Value, is_request: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let body = decoded(&recorded["body"])?;
    let mut head = if is_request {
        let url = recorded["url"].as_str().unwrap_or_default();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        format!("{} /{path} HTTP/1.1\r\nhost: {host}\r\n", recorded["method"].as_str().unwrap_or("POST"))
    } else {
        format!("HTTP/1.1 {} X\r\n", recorded["status"])
    };
    for field in recorded["headers"].as_array().into_iter().flatten() {
        let (name, value) = (field["name"].as_str().unwrap_or_default(), field["value"].as_str().unwrap_or_default());
        if ["content-type", "content-encoding"].contains(&name.to_ascii_lowercase().as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    Ok([head.as_bytes(), &body].concat())
}
