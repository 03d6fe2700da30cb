//! SDKs of Python that want other versions than those beside the tests' own clients, and SDKs of Node and Bun.

use super::{Expected, PYTHON_TLS, Row};

pub const MORE_PYTHON: &[Row] = &[
    python("google-genai", r#"exec "$PYTHON" "$SCRIPTS/matrix_sdks.py" google-genai"#, 4, GOOGLE),
    python("mistralai", r#"exec "$PYTHON" "$SCRIPTS/matrix_sdks.py" mistralai"#, 2, MISTRAL),
    python("boto3 (Bedrock Converse)", r#"exec "$PYTHON" "$SCRIPTS/matrix_sdks.py" boto3"#, 2, BOTO3),
    python("litellm", LITELLM, 4, LITELLM_VERSION),
];

const GOOGLE: &str = r#""$PYTHON" -c 'import google.genai; print(google.genai.__version__)'"#;
const MISTRAL: &str = r#""$PYTHON" -c 'from importlib.metadata import version; print(version("mistralai"))'"#;
const BOTO3: &str = r#""$PYTHON" -c 'import boto3; print(boto3.__version__)'"#;
const LITELLM_VERSION: &str = r#""$PYTHON" -c 'from importlib.metadata import version; print(version("litellm"))'"#;
/// Its prices would come from the internet.
const LITELLM: &str = r#"LITELLM_LOCAL_MODEL_COST_MAP=True exec "$PYTHON" "$SCRIPTS/matrix_sdks.py" litellm"#;

const fn python(name: &'static str, start: &'static str, calls: usize, version: &'static str) -> Row {
    Row { name, tls: "OpenSSL, shared", start, file: PYTHON_TLS, version, calls, expected: Expected::Exact }
}

pub const JAVASCRIPT: &[Row] = &[
    node("openai (JavaScript)", r#"exec "$NODE" "$SCRIPTS/node/sdks.mjs" openai"#, 4),
    node("@anthropic-ai/sdk", r#"exec "$NODE" "$SCRIPTS/node/sdks.mjs" anthropic"#, 2),
    node("undici, HTTP/2", r#"exec "$NODE" "$SCRIPTS/node/sdks.mjs" undici-h2"#, 2),
    Row {
        name: "Bun fetch",
        tls: "BoringSSL, in the program, without symbols",
        start: r#"exec "$BUN" "$SCRIPTS/node/sdks.mjs" fetch"#,
        file: r#"echo "$BUN""#,
        version: r#""$BUN" --version"#,
        calls: 2,
        expected: Expected::Exact,
    },
];

const fn node(name: &'static str, start: &'static str, calls: usize) -> Row {
    let tls = "OpenSSL, in the program";
    Row {
        name,
        tls,
        start,
        file: r#"echo "$NODE""#,
        version: r#"echo "Node $("$NODE" --version)""#,
        calls,
        expected: Expected::Exact,
    }
}
