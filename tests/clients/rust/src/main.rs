//! `reqwest-client BASE_URL CA_FILE BODY_FILE CALLS`: the same call several times on one connection.

use std::{env, error::Error, fs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, base, authority, body, calls] = &arguments[..] else { return Err("four arguments".into()) };
    let authority = reqwest::Certificate::from_pem(&fs::read(authority)?)?;
    let client = reqwest::Client::builder().no_proxy().add_root_certificate(authority).build()?;
    let body = fs::read(body)?;
    for _ in 0..calls.parse::<u32>()? {
        let request = client.post(format!("{base}/v1/chat/completions")).header("content-type", "application/json");
        request.body(body.clone()).send().await?.error_for_status()?.bytes().await?;
    }
    Ok(())
}
