//! `reqwest-client BASE_URL CA_FILE BODY_FILE CALLS CONNECTIONS`: the same call several times on each of several connections at once.

use std::{env, error::Error, fs};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = env::args().collect();
    let [_, base, authority, body, calls, connections] = &arguments[..] else { return Err("five arguments".into()) };
    #[cfg(feature = "aws-lc")]
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| "there is a provider already")?;
    let authority = reqwest::Certificate::from_pem(&fs::read(authority)?)?;
    let (body, calls) = (fs::read(body)?, calls.parse::<u32>()?);
    let mut running = Vec::new();
    for _ in 0..connections.parse::<u32>()? {
        let client = reqwest::Client::builder().no_proxy().add_root_certificate(authority.clone()).build()?;
        let request = client.post(format!("{base}/v1/chat/completions")).header("content-type", "application/json");
        let request = request.body(body.clone()).build()?;
        running.push(tokio::spawn(async move {
            for _ in 0..calls {
                let request = request.try_clone().ok_or("a body that cannot be sent twice")?;
                client.execute(request).await?.error_for_status()?.bytes().await?;
            }
            Outcome::Ok(())
        }));
    }
    for connection in running {
        connection.await??;
    }
    Ok(())
}
