//! Agents as people run them, each with one prompt and without a terminal. Nothing but the model server is there for them; what
//! would call home is turned off. Their home is an empty directory, which is also where they work.

use super::{Expected, Row};

pub const AGENTS: &[Row] = &[
    Row {
        name: "Claude Code",
        tls: "BoringSSL, in the program (Bun), without symbols",
        start: r#"export CLAUDE_CONFIG_DIR="$HOME/.claude" ANTHROPIC_BASE_URL="$BASE" ANTHROPIC_API_KEY=sk-ant-test
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1
exec "$NPM/node_modules/@anthropic-ai/claude-code-linux-x64/claude" -p 'Say hello' --model claude-sonnet-4-5"#,
        file: r#"echo "$NPM/node_modules/@anthropic-ai/claude-code-linux-x64/claude""#,
        version: r#""$NPM/node_modules/@anthropic-ai/claude-code-linux-x64/claude" --version | cut -d' ' -f1"#,
        calls: 1,
        expected: Expected::Exact,
    },
    Row {
        name: "opencode",
        tls: "BoringSSL, in the program (Bun), without symbols",
        start: r#"cp "$SCRIPTS/agents/opencode.json" "$HOME/opencode.json"
export XDG_CONFIG_HOME="$HOME/.config" XDG_DATA_HOME="$HOME/.data" XDG_CACHE_HOME="$HOME/.cache" XDG_STATE_HOME="$HOME/.state"
export OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_MODELS_FETCH=1 npm_config_registry=https://127.0.0.1:9/
exec "$NPM/node_modules/opencode-linux-x64/bin/opencode" run --model anthropic/claude-sonnet-4-5 'Say hello'"#,
        file: r#"echo "$NPM/node_modules/opencode-linux-x64/bin/opencode""#,
        version: r#"HOME=/nonexistent "$NPM/node_modules/opencode-linux-x64/bin/opencode" --version"#,
        // One for the title, by a small model.
        calls: 2,
        expected: Expected::Exact,
    },
    Row {
        name: "Gemini CLI",
        tls: "OpenSSL, in the program (Node)",
        start: r#"mkdir "$HOME/.gemini" && cp "$SCRIPTS/agents/gemini.json" "$HOME/.gemini/settings.json"
export GEMINI_CLI_HOME="$HOME" GEMINI_API_KEY=test GOOGLE_GEMINI_BASE_URL="$BASE" GEMINI_CLI_TRUST_WORKSPACE=true
exec "$NODE" "$NPM/node_modules/@google/gemini-cli/bundle/gemini.js" -m gemini-2.5-flash -p 'Say hello'"#,
        file: r#"echo "$NODE""#,
        version: r#""$NODE" -p 'require(process.env.NPM + "/node_modules/@google/gemini-cli/package.json").version'"#,
        calls: 1,
        expected: Expected::Exact,
    },
    Row {
        name: "Codex",
        tls: "rustls with AWS-LC, in the program, without symbols",
        start: r#"export CODEX_HOME="$HOME/codex" MODEL_KEY=test CODEX_CA_CERTIFICATE="$CA"
mkdir "$CODEX_HOME" && cat > "$CODEX_HOME/config.toml" <<END
model = "gpt-5.1-codex"
model_provider = "test"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.test]
name = "test"
base_url = "$BASE/v1"
env_key = "MODEL_KEY"
wire_api = "responses"
supports_websockets = false
END
exec "$CODEX" exec --skip-git-repo-check --json 'Say hello' </dev/null"#,
        file: r#"echo "$CODEX""#,
        version: r#""$CODEX" --version | cut -d' ' -f2"#,
        calls: 1,
        expected: Expected::Exact,
    },
    Row {
        name: "Codex, WebSocket",
        tls: "rustls with AWS-LC, in the program, without symbols",
        start: r#"export CODEX_HOME="$HOME/codex" CODEX_CA_CERTIFICATE="$CA"
mkdir "$CODEX_HOME" && cat > "$CODEX_HOME/config.toml" <<END
model = "gpt-5.1-codex"
openai_base_url = "$BASE/v1"
check_for_update_on_startup = false
[analytics]
enabled = false
END
printf sk-test | "$CODEX" login --with-api-key >/dev/null 2>&1
exec "$CODEX" exec --skip-git-repo-check --json 'Say hello' </dev/null"#,
        file: r#"echo "$CODEX""#,
        version: r#""$CODEX" --version | cut -d' ' -f2"#,
        // One to have everything ready, which generates nothing.
        calls: 2,
        expected: Expected::Exact,
    },
    Row { name: "aider --no-stream", start: AIDER_WHOLE, expected: Expected::Exact, ..AIDER },
    Row { name: "aider", start: AIDER_STREAM, expected: Expected::Estimated, ..AIDER },
];

const AIDER: Row = Row {
    name: "",
    tls: "OpenSSL, shared",
    start: "",
    file: r#""$AIDER" -c 'import _ssl; print(_ssl.__file__)'"#,
    version: r#""$AIDER" -c 'from importlib.metadata import version; print(version("aider-chat"))'"#,
    calls: 1,
    expected: Expected::Exact,
};

macro_rules! aider {
    ($options:literal) => {
        concat!(
            "export OPENAI_API_BASE=\"$BASE/v1\" OPENAI_API_KEY=test LITELLM_LOCAL_MODEL_COST_MAP=True AIDER_ANALYTICS_DISABLE=true\n",
            "exec \"$AIDER\" -m aider --model openai/gpt-4o --no-git --no-check-update --no-show-release-notes --analytics-disable ",
            "--no-show-model-warnings --yes-always --no-pretty --message 'Say hello' ",
            $options,
            " </dev/null"
        )
    };
}

const AIDER_WHOLE: &str = aider!("--no-stream");
/// It asks for a stream without its usage.
const AIDER_STREAM: &str = aider!("--stream");
